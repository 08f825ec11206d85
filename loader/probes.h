/* SPDX-License-Identifier: MIT
 *
 * `probe root`: the boot goes on when the critical stage's inits are over, and does not wait for probes that do not
 * concern the root.
 */
#ifndef PROBES_H
#define PROBES_H

#include "child.h"

/* Before the child that makes the critical stage's calls: what tells that a module went live, for child->also; -1 where
 * the boot waits for everything. */
int watch_modules(struct boot *boot);
/* In the child, after a call that succeeded. Does not return if the boot has gone on without it. */
void after_call(struct boot *boot, const struct load *load);
/* In the parent, when there was something in child->also: true if it may go on without the child, whose end is then
 * kept for the keeper. */
bool leave_to_probes(struct boot *boot, struct child *child);
/* The keeper, before its first load: device names come in the order of the loads. */
void wait_for_probes(struct boot *boot);

#endif
