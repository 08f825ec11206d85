/* SPDX-License-Identifier: MIT
 *
 * Mount options as mount(8) takes them.
 */
#ifndef MOUNT_OPTIONS_H
#define MOUNT_OPTIONS_H

#include "text.h"

/* Words that are flags go to `flags`; what the kernel knows nothing of is left out; the rest is added to `data`. */
void split_options(const char *options, u32 *flags, struct text *data);
/* The option that begins so, NULL if there is none. */
const char *find_option(const char *options, const char *start);
/* Is there this word in a comma-separated list? */
bool has_option(const char *options, const char *word);

#endif
