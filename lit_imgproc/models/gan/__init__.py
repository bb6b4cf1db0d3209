"""Generative adversarial networks: DCGAN and StyleGAN2."""
