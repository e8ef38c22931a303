"""Stays, so that a test has a pod to run commands in; goes at once when asked to."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # blocked and waited for, not handled: process 1 of a container gets no default action
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    print("waiting", flush=True)
    signal.sigwait(stop)
