"""One seed drives clock, engines, network and faults through the gateway's pure core."""
