/* SPDX-License-Identifier: MIT
 *
 * A megamodule whose imports are bound by their distance in one build of the kernel: which build this is, and the
 * names form of the file for any other.
 */
#ifndef NAMES_FORM_H
#define NAMES_FORM_H

#include "boot.h"
#include "unpack.h"

/* Whether the load's own file is for this kernel. */
bool fits_kernel(const struct boot *boot, const struct load *load);
/* The names form of the load's open file, 0 with memory for free_unpacked(), or a negative errno. What it reads is not
 * given back: it is one file, in a boot that is not as planned. */
long make_names_form(const struct boot *boot, const struct load *load, int fd, struct unpacked *out);

#endif
