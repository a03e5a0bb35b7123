#include "fs/mount/bdi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int bdi_set(dev_t device, const char *attribute, unsigned value)
{
	char path[96], text[16];
	int length = snprintf(text, sizeof(text), "%u", value);
	int fd, r = 0;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", major(device), minor(device),
		 attribute);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, (size_t)length) != length)
		r = -errno;
	close(fd);
	return r;
}
