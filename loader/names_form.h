/* SPDX-License-Identifier: MIT
 *
 * A megamodule whose imports are bound by their distance in one build of the kernel: which build this is, and the
 * names form of the file for any other.
 */
#ifndef NAMES_FORM_H
#define NAMES_FORM_H

#include "boot.h"

/* Whether the load's own file is for this kernel. */
bool fits_kernel(const struct boot *boot, const struct load *load);
/* Makes the call with the names form, in memory; its errno, or another negative one. */
long load_names_form(const struct boot *boot, const struct load *load, const char *arguments);

#endif
