/* SPDX-License-Identifier: MIT
 *
 * See slot.h. The plan has the words that a boot loader may give: androidboot.slot_suffix=_a (Android; the underscore
 * is not part of the slot's name), rauc.slot=A. Counting boots and changing the slot is the boot loader's work.
 */
#include "slot.h"
#include "log.h"

#define SLOT "${slot}"

const char *find_slot(const struct boot *boot)
{
	static char value[32];
	struct text t = { value, sizeof(value), 0, false };
	struct fields f = boot->plan.slot;
	const char *at;
	struct word w;

	text_reset(&t);
	for (; f.count && !t.used; f.count--, f.first = f.count ? next_field(f.first) : f.first)
		for (at = boot->cmdline; next_word(&at, &w);)
			if (key_is(&w, f.first) && w.value_size) {
				text_reset(&t);
				text_add_bytes(&t, w.value + (w.value[0] == '_'), w.value_size - (w.value[0] == '_'));
			}
	return t.cut || find_char(value, '/') ? "" : value;
}

bool put_slot(const struct boot *boot, const char *from, char *to, size_t room)
{
	struct text t = { to, room, 0, false };
	const char *slot = find_slot(boot);

	text_reset(&t);
	for (; *from; from++)
		if (!starts_with(from, SLOT)) {
			text_add_bytes(&t, from, 1);
		} else if (slot[0]) {
			text_add(&t, slot);
			from += sizeof(SLOT) - 2;
		} else {
			log_error("which slot is booted is not known: the kernel command line lacks %s=",
				  boot->plan.slot.first);
			return false;
		}
	return !t.cut;
}

bool choose_verity(struct boot *boot)
{
	struct plan *p = &boot->plan;
	const char *slot = find_slot(boot);
	u32 i;

	for (i = 0; i < p->slot_verity_count; i++)
		if (streq(p->slot_verity[i].slot, slot)) {
			p->verity = p->slot_verity[i].verity;
			return true;
		}
	if (p->slot_verity_count)
		log_error("the image has no hash tree for slot `%s`", slot);
	return !p->slot_verity_count;
}
