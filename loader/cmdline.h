/* SPDX-License-Identifier: MIT
 *
 * The kernel command line: its words, cut as the kernel cuts them, and what the loader wants to know from it.
 */
#ifndef CMDLINE_H
#define CMDLINE_H

#include "text.h"

/* One word of the command line, pointing into the text that it came from (which stays as it is). */
struct word {
	const char *raw; /* as written, quotes included */
	size_t raw_size;
	const char *key; /* before the '=', or the whole word */
	size_t key_size;
	const char *value; /* after the '=', without the quotes around it; NULL if there is no '=' */
	size_t value_size;
};

/* Takes the next word from *at; false at the end, which is also a lone `--`: what follows is for init. */
bool next_word(const char **at, struct word *word);
bool key_is(const struct word *word, const char *key);

enum { CMDLINE_ROOM = 16384, VALUE_ROOM = 1024 };

/* rd.emergency=: what happens when giving up. */
enum emergency { EMERGENCY_PANIC, EMERGENCY_REBOOT, EMERGENCY_POWEROFF, EMERGENCY_HALT };

struct options {
	bool off, debug, times;
	bool panics;   /* the last panic= is not 0 */
	bool no_shell; /* the last rd.shell= is 0 */
	enum emergency emergency;
	bool deferred_now, deferred_off;
	bool writable;	       /* the last of ro and rw */
	bool wait_given;       /* rootwait is there, with or without a number; rd.timeout= does not count then */
	bool wait_forever;     /* rootwait, rd.timeout=0 */
	u64 wait_seconds;      /* rootwait=N (6.7 and newer), rd.timeout=N, 0 if not given */
	u64 delay_seconds;     /* rootdelay=N */
	char break_at[64];     /* every megamod.break= and rd.break=, a comma-separated list of the former's points */
	char skip[VALUE_ROOM]; /* every megamod.skip=, joined by commas */
	char run[VALUE_ROOM];  /* the same of megamod.run=, which takes back the plan's skips */
	/* Other programs' words for what must not be loaded. */
	char kernel_blacklist[VALUE_ROOM];					 /* the last module_blacklist= */
	char kmod_blacklist[VALUE_ROOM];					 /* every modprobe.blacklist= */
	char dracut_blacklist[VALUE_ROOM];					 /* every rd.driver.blacklist= */
	bool no_resume;								 /* noresume */
	bool has_usr_hash;							 /* usrhash= */
	char root_hash[160];							 /* roothash= */
	u64 resume_offset;							 /* in pages */
	char root[VALUE_ROOM], fstype[256], flags[VALUE_ROOM], init[VALUE_ROOM]; /* "" if not given */
	char resume[VALUE_ROOM];
	char usr[VALUE_ROOM], usr_fstype[256],
		usr_flags[VALUE_ROOM]; /* mount.usr=, mount.usrfstype=, mount.usrflags= */
};

/* Reads every option of the loader's own from the command line. */
void read_options(const char *cmdline, struct options *options);
/* Is `name` one of the comma-separated words of `list` ('-' and '_' equal)? */
bool in_list(const char *list, const char *name);
/* The same byte by byte. */
bool in_exact_list(const char *list, const char *name);

#endif
