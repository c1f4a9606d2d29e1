"""What runs on the GPU, in Triton: importing a module of this room needs the triton package."""
