/* SPDX-License-Identifier: MIT
 *
 * The files of the image: opening and removing them, and what is done before another generator's init
 * removes all of them with the initramfs.
 */
#ifndef IMAGE_FILES_H
#define IMAGE_FILES_H

#include "boot.h"

/* A handle on the file, the one that is held if there is one, or a negative errno. */
long open_image_file(const struct boot *boot, const struct image_file *file);
/* The file is not needed again: its memory goes back to the kernel. */
void remove_image_file(const struct boot *boot, struct image_file *file);
/* Holds the files of all deferred stages open. */
void hold_image_files(struct boot *boot);
/* Copies plan, saved state and program, 40 KiB or so, to /run/megamod/image; a handle on it, or a negative errno. */
long copy_image(const struct boot *boot);

#endif
