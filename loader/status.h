/* SPDX-License-Identifier: MIT
 *
 * What has been loaded, for people and programs.
 */
#ifndef STATUS_H
#define STATUS_H

#include "boot.h"

/* Writes /run/megamod/status. */
void write_status(const struct boot *boot);
/* Writes /run/megamod/status.json. */
void write_status_json(struct boot *boot);

#endif
