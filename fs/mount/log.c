#include "fs/mount/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/mount/state.h"

static __thread char *captured;
static __thread size_t captured_size;
static bool to_syslog;
static int file = -1;

void mount_log(const char *level, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (captured && strcmp(level, "error") == 0)
		snprintf(captured, captured_size, "%s", text);
	else if (to_syslog)
		syslog(strcmp(level, "info") == 0 ? LOG_INFO : LOG_WARNING, "%s: %s", level, text);
	else
		fprintf(stderr, "leasehold mount: %s: %s\n", level, text);
}

void log_capture(char *text, size_t size)
{
	captured = text;
	captured_size = size;
}

int log_open(const char *path)
{
	file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	return file < 0 ? -errno : 0;
}

int log_file(void)
{
	return file;
}

void log_to_file(void)
{
	if (file >= 0)
		dup2(file, STDERR_FILENO);
}

void log_to_background(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (chdir("/") < 0)
		mount_log("warning", "cannot change to /: %s", strerror(errno));
	if (file < 0) {
		openlog("leasehold", LOG_PID, LOG_DAEMON);
		to_syslog = true;
	}
	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (to_syslog)
		dup2(null, STDERR_FILENO);
	close(null);
}
