/* SPDX-License-Identifier: MIT
 *
 * The signature of a root hash, for a kernel that checks who made a hash tree.
 */
#ifndef ROOT_HASH_SIGNATURE_H
#define ROOT_HASH_SIGNATURE_H

#include "boot.h"

/* What dm-verity's option root_hash_sig_key_desc names. */
#define SIGNATURE_KEY "megamod:roothash"

/*
 * Hands the kernel the signature that roothashsig= on the command line has, or else the image's file `file`, which may
 * be "". 1 if there is one, 0 if not, else a negative errno; why has been logged then.
 */
long add_root_hash_signature(const struct boot *boot, const char *file);

#endif
