"""Networks, endpoints, published ports and names in the Linux kernel. See docs/design/network.md."""
