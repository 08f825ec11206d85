/* SPDX-License-Identifier: MIT
 *
 * The arguments of a call.
 */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "boot.h"

/* The text for the call, NULL if there is no room for it; `words`: with those of the command line; `skips`: with the
 * members to leave out. It lives until the next call. */
const char *call_arguments(struct boot *boot, const struct load *load, bool words, bool skips);
/* What `words` adds: "" if nothing of the command line belongs to the load. */
const char *command_line_words(struct boot *boot, const struct load *load);
/* Members of a megamodule that would refuse a word of the command line, and with it the whole call, have failed;
 * returns how many. Such words are not passed on. */
u32 refuse_words(struct boot *boot, const struct load *load);
/* The next member behind `after` (NULL: from the first on) that is to be initialised and has a word on the command line
 * which a function of its own judges; NULL if there is none. */
struct member *next_own_judge(struct boot *boot, const struct load *load, const struct member *after);

#endif
