/* SPDX-License-Identifier: MIT
 *
 * The arguments of a call.
 */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "boot.h"

/* The text for the call, NULL if there is no room for it; `skips`: with the members to leave out. It lives until the
 * next call. */
const char *call_arguments(struct boot *boot, const struct load *load, bool skips);

#endif
