"""One pair of real engines, the same requests: whole to both in turn, and handed from one to the other."""
