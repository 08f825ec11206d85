"""The prelinker: links kernel modules with each other into one relocatable megamodule."""
