//! Starts a real Kubernetes on this machine for tests, the demo and the curious.
