/* SPDX-License-Identifier: MIT
 *
 * Words of the command line that a member's parameter would refuse. The kernel would refuse the whole call for one of
 * them, and with it all members.
 */
#ifndef PARAMETERS_H
#define PARAMETERS_H

#include "boot.h"

/*
 * Would a parameter of this kind take the word's value? Kinds are called as the kernel's param_ops_KIND: byte short
 * ushort int uint long ulong ullong hexint bool invbool bint charp, and string:SIZE; `KIND[N]` is an array of N at
 * most; `none` takes nothing. Any other kind takes everything: `own` as far as one knows before the module's own
 * function has been called.
 */
bool takes_value(const char *kind, const struct word *word);
/* The kind of a member's parameter, NULL if the plan does not say. */
const char *kind_of(const struct member *member, const char *name, size_t size);

#endif
