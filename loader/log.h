/* SPDX-License-Identifier: MIT
 *
 * Lines in the kernel's log, prefixed `megamod: `, each through a /dev/kmsg opened for it.
 */
#ifndef SAY_H
#define SAY_H

#include "text.h"

/* From now on lines go to kmsg below this handle on /dev; before that to standard error. */
void log_to(int dev);
void log_enable_debug(bool on);

void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A failure that does not end anything: shown even with `quiet`. */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `megamod: error: …`. What follows is the caller's business. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `megamod: debug: …`, only with megamod.debug. */
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "ENODEV", or "77" for a number that has no name here; err may have either sign. The text lives until the next
 * call. */
const char *errno_name(long err);
/* What the number means when a module is loaded. */
const char *errno_text(long err);

#endif
