"""The OCI runtime specification: pure translation from the engine's values. Source: runtime-spec config.md, moby
daemon/oci_linux.go, daemon/pkg/oci."""
