/* SPDX-License-Identifier: MIT
 *
 * See log.h. /dev/kmsg is opened for each line, because writes are limited to 10 in 5 s for each open file
 * (devkmsg_write, kernel/printk/printk.c, 6.1). Levels: 6 for what goes as planned, 3 for failures: `quiet` shows
 * levels below 4.
 */
#include "log.h"

/* A longer write is refused: LOG_LINE_MAX is 1024 less a prefix of 32 (48 later), kernel/printk/printk.c. */
enum { LINE_ROOM = 960 };

static int log_dev_plus_one; /* 0: none; so that there is no initialised data */
static bool debugging;

#define ERROR(name) { name, #name }

static const struct {
	u8 number;
	char name[13];
} errors[] = {
	ERROR(EPERM),	  ERROR(ENOENT),  ERROR(EIO),	    ERROR(ENXIO),	 ERROR(E2BIG),	    ERROR(ENOEXEC),
	ERROR(EAGAIN),	  ERROR(ENOMEM),  ERROR(EACCES),    ERROR(EFAULT),	 ERROR(EBUSY),	    ERROR(EEXIST),
	ERROR(ENODEV),	  ERROR(ENOTDIR), ERROR(EISDIR),    ERROR(EINVAL),	 ERROR(EFBIG),	    ERROR(ENOSPC),
	ERROR(EROFS),	  ERROR(ENOSYS),  ERROR(ENODATA),   ERROR(EBADMSG),	 ERROR(EOPNOTSUPP), ERROR(ENOBUFS),
	ERROR(ETIMEDOUT), ERROR(ENOKEY),  ERROR(ENOMEDIUM), ERROR(EKEYREJECTED), ERROR(EINTR),	    ERROR(ECANCELED),
	ERROR(EDEADLK),	  ERROR(ERANGE),
};

static void log_line(const char *prefix, const char *format, va_list list)
{
	TEXT(line, LINE_ROOM);
	long fd = -ENOENT;

	text_add(&line, prefix);
	text_format_list(&line, format, list);
	if (line.used == LINE_ROOM - 1)
		line.used--;
	line.data[line.used++] = '\n';
	if (log_dev_plus_one > 0)
		fd = sys_openat(log_dev_plus_one - 1, "kmsg", O_WRONLY, 0);
	/* Nobody is left to hear of a line that could not be written. */
	if (fd >= 0) {
		sys_write((int)fd, line.data, line.used);
		sys_close((int)fd);
	} else {
		sys_write(2, line.data + 3, line.used - 3);
	}
}

#define LOG_LINE(prefix)                        \
	do {                                    \
		va_list list;                   \
		va_start(list, format);         \
		log_line(prefix, format, list); \
		va_end(list);                   \
	} while (0)

void log_info(const char *format, ...)
{
	LOG_LINE("<6>megamod: ");
}

void log_warning(const char *format, ...)
{
	LOG_LINE("<3>megamod: ");
}

void log_error(const char *format, ...)
{
	LOG_LINE("<3>megamod: error: ");
}

void log_debug(const char *format, ...)
{
	if (debugging)
		LOG_LINE("<6>megamod: debug: ");
}

void log_to(int dev)
{
	log_dev_plus_one = dev + 1;
}

void log_enable_debug(bool on)
{
	debugging = on;
}

const char *errno_name(long err)
{
	static TEXT(number, 24);
	size_t i;

	if (err < 0)
		err = -err;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].number == err)
			return errors[i].name;
	text_reset(&number);
	text_format(&number, "%d", (int)err);
	return number.data;
}

const char *errno_text(long err)
{
	switch (err < 0 ? -err : err) {
	case EPERM:
		return "lockdown, or kernel.modules_disabled";
	case ENOENT:
		return "the file, or a symbol that it needs, is missing";
	case EEXIST:
		return "it already exists";
	case EDEADLK:
		return "the kernel's module lock is left taken";
	case ECANCELED:
		return "its process ended in the middle of the call";
	case EINTR:
		return "its process was killed";
	case EFAULT:
		return "the kernel oopsed in it";
	case ETIMEDOUT:
		return "it has not come to its end in time";
	case E2BIG:
		return "its arguments are too long";
	case ENOKEY:
	case EKEYREJECTED:
		return "the kernel wants a signature by a key that it knows";
	}
	return "the kernel may have said why, above";
}
