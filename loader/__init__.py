"""The loader: the static program that is /init in the image, and how it is compiled."""
