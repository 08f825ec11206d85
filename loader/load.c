/* SPDX-License-Identifier: MIT
 *
 * One finit_module call a load: its argument text, the call, the results.
 *
 * The arguments of a call are the profile's, then the words of the kernel command line that belong to it (later ones
 * win, as parse_args takes them in turn), then the members to leave out, then async_probe. A member is left out when
 * the user asks for it or when one that it needs in an earlier load is not there: its init would call into code that
 * was never initialised.
 */
#include "boot.h"
#include "say.h"

enum {
	ARGUMENT_ROOM = 65536,	/* the command line is at most 4 KiB almost everywhere, a skip list 5 bytes a member */
	RESULTS_ROOM = 4096,	/* a sysfs file is at most a page */
	CHUNK = 256,		/* members in one result or skip parameter */
};

/* What the glue leaves in its result parameters, besides 0 and a negative errno. */
enum { RESULT_OK = 0, RESULT_ASKED = 1, RESULT_NEEDS = 2 };

static struct member *members_of(struct boot *boot, const struct load *load)
{
	return boot->plan.members + load->member;
}

/* The name of something with an id below limit that m needs and that is not there, or NULL. */
static const char *missing_for(const struct boot *boot, const struct member *m, u64 limit)
{
	struct fields f = m->needs;
	const char *at;
	u64 id;

	for (; f.count; f.count--, f.first = next_field(f.first)) {
		at = f.first;
		if (take_number(&at, &id) && id < limit && boot->plan.members[id].fate != FATE_OK)
			return boot->plan.members[id].name;
	}
	return NULL;
}

/* Decides who is left out of this load; returns how many. */
static u32 choose(struct boot *boot, const struct load *load)
{
	struct member *m = members_of(boot, load);
	u32 i, out = 0;

	for (i = 0; i < load->member_count; i++) {
		m[i].fate = FATE_PENDING;
		if (in_list(boot->options.skip, m[i].name))
			m[i].fate = FATE_ASKED;
		else if (m[i].needs.count && missing_for(boot, &m[i], load->member))	/* within it, the glue decides */
			m[i].fate = FATE_NEEDS;
		out += m[i].fate != FATE_PENDING;
	}
	return out;
}

/* Does a word `KEY.…` of the command line belong to this load? Prefixes keep their word whole, see add_words(). */
static bool is_prefix(const struct boot *boot, const struct load *load, const char *key, size_t size)
{
	u32 i;

	for (i = 0; i < load->prefix_count; i++)
		if (same_module(key, size, boot->plan.prefixes[load->prefix + i]))
			return true;
	return false;
}

static bool is_member(struct boot *boot, const struct load *load, const char *key, size_t size)
{
	const struct member *m = members_of(boot, load);
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (same_module(key, size, m[i].name))
			return true;
	return false;
}

static void add_word(struct text *t, const char *s, size_t size)
{
	if (t->used)
		text_add(t, " ");
	text_add_bytes(t, s, size);
}

/*
 * Words stay as they are written, quotes included, as the call's arguments go through the same lexer. Only a single
 * gets `member.` taken off; an opening quote before it is kept.
 */
static void add_words(struct boot *boot, const struct load *load, struct text *t)
{
	const char *at = boot->cmdline, *dot;
	struct word w;
	size_t head;

	while (next_word(&at, &w)) {
		for (dot = w.key; dot < w.key + w.key_size && *dot != '.'; dot++)
			;
		head = (size_t)(dot - w.key);
		if (!head || head == w.key_size)
			continue;
		if (is_prefix(boot, load, w.key, head) || (load->merged && is_member(boot, load, w.key, head))) {
			add_word(t, w.raw, w.raw_size);
		} else if (is_member(boot, load, w.key, head)) {
			add_word(t, w.raw, (size_t)(w.key - w.raw));
			text_add_bytes(t, dot + 1, w.raw_size - (size_t)(dot + 1 - w.raw));
		}
	}
}

/* `skip=0,7 skip1=3`: indices within the load, 256 to a parameter. */
static void add_skips(struct boot *boot, const struct load *load, struct text *t)
{
	const struct member *m = members_of(boot, load);
	u32 i, chunk = 0;
	bool open = false;

	for (i = 0; i < load->member_count; i++) {
		if (i - chunk * CHUNK == CHUNK) {
			chunk++;
			open = false;
		}
		if (m[i].fate == FATE_PENDING)
			continue;
		if (!open) {
			add_word(t, "skip", 4);
			if (chunk)
				text_format(t, "%u", chunk);
		}
		text_format(t, "%c%u", open ? ',' : '=', i - chunk * CHUNK);
		open = true;
	}
}

static const char *arguments(struct boot *boot, const struct load *load, bool skips)
{
	static char room[ARGUMENT_ROOM];
	struct text t = { room, sizeof(room), 0, false };
	u32 i;

	text_reset(&t);
	for (i = 0; i < load->argument_count; i++)
		add_word(&t, boot->plan.arguments[load->argument + i],
			 length(boot->plan.arguments[load->argument + i]));
	add_words(boot, load, &t);
	if (skips)
		add_skips(boot, load, &t);
	if (boot->plan.async_probe)
		add_word(&t, "async_probe", 11);
	return t.cut ? NULL : t.data;
}

/* ---- /proc/sys/kernel/modprobe ---- */

#define MODPROBE "sys/kernel/modprobe"

static long put_modprobe(const struct boot *boot, const char *path)
{
	long fd = sys_openat(boot->proc, MODPROBE, O_WRONLY, 0), err;

	if (fd < 0)
		return fd;
	err = write_all((int)fd, path, length(path));
	sys_close((int)fd);
	return err;
}

/*
 * While a megamodule's inits run, a modprobe started by request_module() would wait for the megamodule to go live, and
 * the init for modprobe. With an empty path request_module() fails at once (__request_module, kernel/kmod.c, 6.1:
 * -ENOENT). A newline makes it empty; a write of zero bytes would do nothing.
 */
static bool empty_modprobe(const struct boot *boot, char *saved, size_t room)
{
	char now_there[8];
	long err = read_small(boot->proc, MODPROBE, saved, room);

	if (err >= 0)
		err = put_modprobe(boot, "\n");
	if (err >= 0)
		err = read_small(boot->proc, MODPROBE, now_there, sizeof(now_there));
	if (err >= 0 && now_there[0] != '\n' && now_there[0])
		err = -EBUSY;
	if (err < 0)
		debug("%s cannot be emptied: %s", MODPROBE, errno_name(err));
	return err >= 0;
}

static void restore_modprobe(const struct boot *boot, const char *saved)
{
	long err = put_modprobe(boot, saved);

	if (err < 0)
		warn("/proc/%s cannot be restored: %s", MODPROBE, errno_name(err));
}

/* ---- results ---- */

static void set_all(struct boot *boot, const struct load *load, enum fate fate)
{
	struct member *m = members_of(boot, load);
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (m[i].fate == FATE_PENDING)
			m[i].fate = fate;
}

static void say_skipped(const struct boot *boot, const struct member *m)
{
	const char *other = missing_for(boot, m, ~0ull);

	if (m->fate == FATE_ASKED)
		say("member %s skipped: asked for", m->name);
	else
		warn("member %s skipped: needs %s", m->name, other ? other : "a member that is not there");
}

/* One member's result as the glue has it; negative is the errno of its init. */
static void take_result(struct member *m, int result)
{
	if (m->fate != FATE_PENDING)
		return;	/* left out by us: the glue only says that we asked */
	if (result == RESULT_OK)
		m->fate = FATE_OK;
	else if (result == RESULT_ASKED)
		m->fate = FATE_ASKED;
	else if (result == RESULT_NEEDS)
		m->fate = FATE_NEEDS;
	else
		m->fate = FATE_FAILED;
	if (result < 0)
		warn("member %s failed: -%s", m->name, errno_name(result));
	else if (m->fate == FATE_FAILED)
		warn("member %s failed: it was not run", m->name);
}

/* Reads one result parameter; returns how many members it told of, or a negative errno. */
static long read_chunk(const struct boot *boot, const struct load *load, u32 chunk, struct member *m, u32 count)
{
	static char results[RESULTS_ROOM + 1];
	TEXT(path, 192);
	const char *at = results;
	bool negative;
	u64 number;
	long err;
	u32 i;

	text_format(&path, "module/%s/parameters/result", load->name);
	if (chunk)
		text_format(&path, "%u", chunk);
	err = read_small(boot->sys, path.data, results, sizeof(results));
	if (err < 0)
		return err;
	for (i = 0; i < count; i++) {
		negative = *at == '-';
		at += negative;
		if (!take_number(&at, &number))
			break;
		take_result(&m[i], negative ? -(int)number : (int)number);
		if (*at != ',')
			return i + 1;
		at++;
	}
	return i;
}

static void read_results(struct boot *boot, const struct load *load)
{
	struct member *m = members_of(boot, load);
	u32 i, count;
	long got;

	for (i = 0; i < load->member_count; i += count) {
		count = load->member_count - i < CHUNK ? load->member_count - i : CHUNK;
		got = read_chunk(boot, load, i / CHUNK, m + i, count);
		if (got != (long)count) {
			/* Not knowing is no ground to run what needs them. */
			warn("load %s: results %u to %u cannot be read: %s", load->name, i, i + count - 1,
			     got < 0 ? errno_name(got) : "too few");
		}
	}
	set_all(boot, load, FATE_FAILED);
}

/* -EEXIST of a single may mean that it is there already, put in by an init's request_module(). */
static bool is_live(const struct boot *boot, const struct load *load)
{
	TEXT(path, 192);
	char state[16];

	text_format(&path, "module/%s/initstate", load->name);
	return read_small(boot->sys, path.data, state, sizeof(state)) > 0 && starts(state, "live");
}

/* ---- the call ---- */

static long call(struct boot *boot, struct load *load, bool skips)
{
	const char *text = arguments(boot, load, skips);
	long fd = load->fd, err = -E2BIG;

	if (!text)
		return err;
	if (fd < 0)
		fd = sys_openat(AT_FDCWD, load->file, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	debug("load %s: %s", load->name, text);
	err = sys_finit_module((int)fd, text);
	sys_close((int)fd);
	load->fd = -1;
	return err;
}

static void count_fates(struct boot *boot, struct stage *stage, const struct load *load, u64 nanoseconds)
{
	const struct member *m = members_of(boot, load);
	u32 i, ok = 0, failed = 0, skipped;

	for (i = 0; i < load->member_count; i++) {
		ok += m[i].fate == FATE_OK;
		failed += m[i].fate == FATE_FAILED;
		if (m[i].fate == FATE_ASKED || m[i].fate == FATE_NEEDS)
			say_skipped(boot, &m[i]);
	}
	skipped = load->member_count - ok - failed;
	stage->ok += ok;
	stage->failed += failed;
	stage->skipped += skipped;
	stage->nanoseconds += nanoseconds;
	if (nanoseconds)
		say("load %s took %llu us: %u ok, %u failed, %u skipped", load->name,
		    (unsigned long long)divide(nanoseconds, 1000, NULL), ok, failed, skipped);
}

/* ENOEXEC is what a module of another kernel gives: says so if that is what it is. */
static void say_release(const struct boot *boot)
{
	char release[128];
	size_t n;

	if (read_small(boot->proc, "sys/kernel/osrelease", release, sizeof(release)) <= 0)
		return;
	for (n = 0; release[n] && release[n] != '\n'; n++)
		;
	release[n] = 0;
	if (!same(release, boot->plan.release))
		warn("the image is for kernel %s, this is %s", boot->plan.release, release);
}

/* Returns the call's errno (positive), 0 if it went well or was not made. */
static int run_load(struct boot *boot, struct stage *stage, struct load *load)
{
	u32 out = choose(boot, load);
	bool able = load->merged && load->results;
	u64 start;
	long err;

	/* A single that must not run is not loaded; nor is a megamodule that cannot leave a member out. */
	if (out && !able) {
		set_all(boot, load, FATE_NEEDS);
		count_fates(boot, stage, load, 0);
		return 0;
	}
	start = now();
	err = call(boot, load, out > 0);
	start = now() - start;
	if (err == -EEXIST && !load->merged && is_live(boot, load))
		err = 0;
	if (err < 0) {
		warn("load %s failed: %s (%s)", load->name, errno_name(err), errno_text(err));
		if (err == -ENOEXEC)
			say_release(boot);
		set_all(boot, load, FATE_FAILED);
	} else if (able) {
		read_results(boot, load);
	} else {
		set_all(boot, load, FATE_OK);
	}
	count_fates(boot, stage, load, start ? start : 1);
	return (int)-err;
}

void load_stage(struct boot *boot, struct stage *stage, enum kind fired)
{
	struct load *loads = boot->plan.loads + stage->load;
	bool critical = stage == boot->plan.stages, emptied, merged_failed = false;
	char modprobe[256];
	u32 i;
	int err;

	say("stage %s triggered by %s", stage->name, kind_name(fired));
	emptied = critical && empty_modprobe(boot, modprobe, sizeof(modprobe));
	for (i = 0; i < stage->load_count; i++) {
		if (!critical && loads[i].requests) {
			emptied = empty_modprobe(boot, modprobe, sizeof(modprobe));
			say("load %s: request_module is off during this call", loads[i].name);
		}
		err = run_load(boot, stage, &loads[i]);
		if (!stage->error)
			stage->error = err;
		merged_failed |= err && loads[i].merged;
		if (!critical && emptied) {
			restore_modprobe(boot, modprobe);
			emptied = false;
		}
	}
	if (emptied)
		restore_modprobe(boot, modprobe);
	stage->state = merged_failed || (!stage->ok && stage->failed) ? STATE_FAILED : STATE_DONE;
	say("stage %s done", stage->name);
}
