"""The front door of a service: admits, pairs, hands off, resumes.

Decisions are pure and in files of their own: `request` (what a client asks), `admit`, `fleet`,
`pair`, `handoff`, `silence`, `resume`, `stream`, `drain`. Time comes in as a parameter, events come
in, actions go out. `server`, `listener`, `exchange`, `upstream`, `watch` and `main` carry them out
on one event loop.
"""
