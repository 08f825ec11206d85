#!/bin/sh
# This file is part of megamod. dracut's init sources it before it starts udev.

[ -e /run/megamod/status ] || /megamod-init --hook
