/* SPDX-License-Identifier: MIT
 *
 * See root_hash_signature.h. dm-verity takes the signature (PKCS #7, detached, DER) from a key of the type `user`,
 * which request_key() finds in the keyring of the process that loads the table (verity_verify_get_sig_from_key(),
 * drivers/md/dm-verity-verify-sig.c, 6.1). The keyring goes when init is executed. The forms of the word are those of
 * root-hash-signature= in systemd's crypttab(5): a path, here one of the image, or `base64:` and the content.
 */
#include "root_hash_signature.h"
#include "files.h"
#include "log.h"
#include "slot.h"

enum { SIGNATURE_ROOM = 16384, PROCESS_KEYRING = -2 };

static u8 signature[SIGNATURE_ROOM];

static s32 digit_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Its size, or -EINVAL. */
static long decode(const char *text, size_t size)
{
	u32 bits = 0, have = 0;
	long used = 0;
	size_t i;

	while (size && text[size - 1] == '=')
		size--;
	for (i = 0; i < size; i++) {
		if (digit_of(text[i]) < 0 || used == SIGNATURE_ROOM)
			return -EINVAL;
		bits = bits << 6 | (u32)digit_of(text[i]);
		have += 6;
		if (have >= 8) {
			have -= 8;
			signature[used++] = (u8)(bits >> have);
		}
	}
	return used ? used : -EINVAL;
}

static long read_signature(const char *path)
{
	long fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0), got, used = 0;

	if (fd < 0)
		return fd;
	while ((got = sys_read((int)fd, signature + used, (size_t)(SIGNATURE_ROOM - used))) > 0)
		used += got;
	sys_close((int)fd);
	return got < 0 ? got : used == SIGNATURE_ROOM ? -EFBIG : used ? used : -EINVAL;
}

/* roothashsig=; false without one. The last one counts. */
static bool find_word(const struct boot *boot, struct word *found)
{
	const char *at = boot->cmdline;
	struct word w;
	bool any = false;

	while (next_word(&at, &w))
		if (key_is(&w, "roothashsig") && w.value_size) {
			*found = w;
			any = true;
		}
	return any;
}

long add_root_hash_signature(const struct boot *boot, const char *file)
{
	static char path[VALUE_ROOM];
	struct text t = { path, sizeof(path), 0, false };
	struct word w;
	long size;

	text_reset(&t);
	if (find_word(boot, &w)) {
		if (w.value_size > 7 && !memcmp(w.value, "base64:", 7)) {
			size = decode(w.value + 7, w.value_size - 7);
			text_add(&t, "roothashsig=base64:");
		} else {
			text_add_bytes(&t, w.value, w.value_size);
			size = path[0] == '/' ? read_signature(path) : -EINVAL;
		}
	} else {
		if (!file[0])
			return 0;
		if (!put_slot(boot, file, path, sizeof(path)))
			return -EINVAL;
		size = read_signature(path);
	}
	if (size >= 0)
		size = sys_add_key("user", SIGNATURE_KEY, signature, (size_t)size, PROCESS_KEYRING);
	if (size >= 0)
		return 1;
	log_error("the signature of the root hash, %s: %s%s", path, errno_name(size),
		  size == -EINVAL   ? " (neither a file of the image nor base64:…)"
		  : size == -ENOSYS ? " (this kernel has no keys: CONFIG_KEYS)"
				    : "");
	return size;
}
