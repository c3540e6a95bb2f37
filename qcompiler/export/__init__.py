"""What leaves the machine: Triton model repositories, and bundles that check themselves."""
