#include "fs/mount/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/mount/status.h"

/* A mount of ours; another kind of file system may be covered, as mount(8) lets it. */
static bool is_mounted(const char *path)
{
	struct statx x;

	return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &x) == 0 &&
	       (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) &&
	       getxattr(path, STATUS_XATTR, NULL, 0) >= 0;
}

int mountpoint_check(const struct mount_options *options)
{
	const char *path = options->mountpoint;
	struct stat st;

	if (geteuid() != 0) {
		mount_log("error", "mounting needs root; run it with sudo");
		return -EPERM;
	}
	if (stat(path, &st) < 0 && errno == ENOTCONN) {
		mount_log("info", "%s: detaching a mount whose daemon is gone", path);
		(void)umount2(path, MNT_DETACH); /* stat below tells whether it helped */
	}
	if (stat(path, &st) < 0) {
		int r = -errno;

		mount_log("error", "mount point %s: %s; make the directory first", path,
			  strerror(errno));
		return r;
	}
	if (!S_ISDIR(st.st_mode)) {
		mount_log("error", "mount point %s is not a directory; give one", path);
		return -ENOTDIR;
	}
	if (is_mounted(path)) {
		mount_log("error", "mount point %s has a Leasehold mount already; umount it first, or "
			  "give another", path);
		return -EBUSY;
	}
	return 0;
}

/* The device of what is at `path`, without a question to whoever serves it. */
static bool device_at(const char *path, dev_t *ret_device)
{
	struct statx x;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &x) < 0)
		return false;
	*ret_device = makedev(x.stx_dev_major, x.stx_dev_minor);
	return true;
}

int mountpoint_attach(const struct mount_options *o, int fuse_fd, bool read_only, dev_t *ret_device)
{
	unsigned long flags = MS_NOATIME | (read_only ? MS_RDONLY : 0) |
			      (o->no_suid ? MS_NOSUID : 0) | (o->no_dev ? MS_NODEV : 0) |
			      (o->no_exec ? MS_NOEXEC : 0) | (o->sync ? MS_SYNCHRONOUS : 0);
	char options[256];
	int r = 0;

	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fuse_fd);
	if (mount(o->url, o->mountpoint, "fuse.leasehold", flags, options) < 0) {
		r = -errno;
		mount_log("error", "cannot mount on %s: %s; is the directory still there, and may this "
			  "process mount (CAP_SYS_ADMIN)?", o->mountpoint, strerror(-r));
		return r;
	}
	(void)device_at(o->mountpoint, ret_device); /* it was just mounted */
	return 0;
}

bool mountpoint_is(const struct mount_options *options, dev_t device)
{
	dev_t there;

	return device_at(options->mountpoint, &there) && there == device;
}

/* ---- elsewhere ---- */

struct errand {
	const struct mount_options *options;
	int process; /* in whose mount namespace */
	dev_t device;
	bool unmount; /* else: look whether it is there */
	int flags;
	int result;
};

static void run_errand(struct errand *errand)
{
	if (errand->unmount)
		errand->result = umount2(errand->options->mountpoint, errand->flags) < 0 ? -errno : 0;
	else
		errand->result = mountpoint_is(errand->options, errand->device) ? 0 : -ENOENT;
}

static void *elsewhere(void *context)
{
	struct errand *errand = context;

	/* A thread that shares its root and working directory with others may not change namespaces. */
	if (unshare(CLONE_FS) < 0 || setns(errand->process, CLONE_NEWNS) < 0)
		errand->result = -errno; /* the guardian is gone, and its namespace may be */
	else
		run_errand(errand);
	return NULL;
}

static int send_on_errand(const struct mount *m, struct errand *errand)
{
	pthread_t thread;
	int r;

	errand->options = m->options;
	if (!m->elsewhere) {
		run_errand(errand);
		return errand->result;
	}
	errand->process = guardian_process(m->guardian);
	r = -pthread_create(&thread, NULL, elsewhere, errand);
	if (r < 0)
		return r;
	pthread_join(thread, NULL);
	return errand->result;
}

bool mountpoint_is_here(const struct mount *m, dev_t device)
{
	struct errand errand = { .device = device };

	return send_on_errand(m, &errand) == 0;
}

int mountpoint_unmount(const struct mount *m, int flags)
{
	struct errand errand = { .unmount = true, .flags = flags };

	return send_on_errand(m, &errand);
}
