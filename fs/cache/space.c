#include "fs/cache/space.h"

#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Some file systems give space back behind an unlink: for so long it is waited for. */
#define FREED_WAIT_MS 2
/* Inodes that stay free for others, where there is a fixed number: one in so many. */
#define INODES_LEFT_SHARE 100

/* A number that btrfs tells of its data's space: `name` is one of its files in sysfs. -1: it does not. */
static int open_promise(const struct btrfs_ioctl_fs_info_args *info, const char *name)
{
	/* Data and metadata may be in the same chunks. */
	static const char *const kinds[] = { "data", "mixed" };
	int fd = -1;

	for (int i = 0; i < 2 && fd < 0; i++) {
		char path[128];
		const uint8_t *id = info->fsid;

		snprintf(path, sizeof(path),
			 "/sys/fs/btrfs/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
			 "%02x%02x%02x%02x%02x%02x/allocation/%s/%s",
			 id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10],
			 id[11], id[12], id[13], id[14], id[15], kinds[i], name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	return fd;
}

void space_init(struct space_source *s, int directory_fd)
{
	struct btrfs_ioctl_fs_info_args info = { 0 };
	struct statfs fs;

	*s = (struct space_source){ .directory_fd = directory_fd, .promise_fds = { -1, -1 } };
	s->btrfs = fstatfs(directory_fd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC;
	if (!s->btrfs || ioctl(directory_fd, BTRFS_IOC_FS_INFO, &info) < 0)
		return;
	/* In the order in which a promise becomes an extent: what moves on meanwhile counts twice. */
	s->promise_fds[0] = open_promise(&info, "bytes_may_use");
	s->promise_fds[1] = open_promise(&info, "bytes_reserved");
}

void space_finish(struct space_source *s)
{
	for (int i = 0; i < SPACE_PROMISES; i++)
		if (s->promise_fds[i] >= 0)
			close(s->promise_fds[i]);
}

static uint64_t promised_bytes(const struct space_source *s)
{
	uint64_t bytes = 0;

	for (int i = 0; i < SPACE_PROMISES; i++) {
		char text[32];
		ssize_t length = s->promise_fds[i] < 0 ? 0 :
			pread(s->promise_fds[i], text, sizeof(text) - 1, 0);

		if (length > 0) {
			text[length] = 0;
			bytes += strtoull(text, NULL, 10);
		}
	}
	return bytes;
}

struct space space_look(const struct space_source *s)
{
	struct space space = { UINT64_MAX, true };
	uint64_t promised = promised_bytes(s);
	struct statvfs vfs;

	if (fstatvfs(s->directory_fd, &vfs) < 0)
		return space;
	space.bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	space.bytes -= promised < space.bytes ? promised : space.bytes;
	if (vfs.f_files > 0)
		space.inodes = vfs.f_favail > vfs.f_files / INODES_LEFT_SHARE;
	return space;
}

void space_wait_for_unlinked(const struct space_source *s)
{
	__u64 transaction = 0;

	/* No bytes of files are written for it, as syncfs would. */
	if (s->btrfs && ioctl(s->directory_fd, BTRFS_IOC_START_SYNC, &transaction) == 0 &&
	    ioctl(s->directory_fd, BTRFS_IOC_WAIT_SYNC, &transaction) == 0)
		return;
	usleep(FREED_WAIT_MS * 1000);
}

void space_write_in_place(const struct space_source *s)
{
	int flags;

	if (s->btrfs && ioctl(s->directory_fd, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_NOCOW_FL;
		(void)ioctl(s->directory_fd, FS_IOC_SETFLAGS, &flags); /* refused for compressed ones */
	}
}
