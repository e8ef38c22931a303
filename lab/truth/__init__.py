"""What a real istiod would send, beside what `tlscheck` says. Sidecars; ambient is left out."""
