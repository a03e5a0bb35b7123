#include "fs/origin/credentials.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/origin/handle.h"

static __thread struct {
	bool known; /* the groups of a new thread are those of its creator */
	struct credential now;
	bool own_umask; /* it does not share it with the other threads any more */
	mode_t umask;
} thread;

int credentials_probe(int directory_fd)
{
	struct credential someone = { .uid = NOBODY_ID, .gid = NOBODY_ID };
	struct file_id id;
	int mount_id, fd, error;

	error = file_id_of(directory_fd, "", &id, &mount_id);
	if (error)
		return error;
	fd = file_id_open(directory_fd, &id, O_PATH);
	if (fd < 0)
		return fd;
	close(fd);
	error = credentials_assume(&someone);
	if (!error && (setfsuid((uid_t)-1) != (int)NOBODY_ID ||
		       setfsgid((gid_t)-1) != (int)NOBODY_ID))
		error = -EPERM;
	credentials_reset();
	return error;
}

void credentials_squash(struct credential *credential)
{
	if (credential->uid == 0)
		credential->uid = NOBODY_ID;
	if (credential->gid == 0)
		credential->gid = NOBODY_ID;
	for (uint32_t i = 0; i < credential->group_count; i++)
		if (credential->groups[i] == 0)
			credential->groups[i] = NOBODY_ID;
}

/* Takes CAP_SYS_RESOURCE away from this thread, or gives it back if the process has it. */
static void resource(bool on)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	uint32_t bit = 1u << CAP_SYS_RESOURCE;

	if (syscall(SYS_capget, &header, data) < 0)
		return; /* cannot fail with this version */
	if (!(data[0].permitted & bit) || !!(data[0].effective & bit) == on)
		return;
	data[0].effective ^= bit;
	(void)syscall(SYS_capset, &header, data); /* less, or what is permitted: cannot fail */
}

int credentials_assume(const struct credential *credential)
{
	struct credential *now = &thread.now;
	size_t groups_bytes = credential->group_count * sizeof(credential->groups[0]);

	if (credential->uid == UINT32_MAX || credential->gid == UINT32_MAX ||
	    credential->group_count > GROUPS_MAX)
		return -EINVAL;
	/* The system call and not the library's wrapper, which would switch every thread. */
	if (!thread.known || now->group_count != credential->group_count ||
	    memcmp(now->groups, credential->groups, groups_bytes) != 0) {
		thread.known = false;
		if (syscall(SYS_setgroups, (size_t)credential->group_count, credential->groups) < 0)
			return -errno;
		now->group_count = credential->group_count;
		memcpy(now->groups, credential->groups, groups_bytes);
	}
	if (!thread.known || now->gid != credential->gid) {
		(void)setfsgid(credential->gid); /* probed at start; its result tells nothing */
		now->gid = credential->gid;
	}
	if (!thread.known || now->uid != credential->uid) {
		if (!thread.known || !now->uid != !credential->uid)
			resource(credential->uid == 0);
		(void)setfsuid(credential->uid);
		now->uid = credential->uid;
	}
	thread.known = true;
	return 0;
}

int credentials_umask(uint32_t mask)
{
	if (!thread.own_umask) {
		if (unshare(CLONE_FS) < 0)
			return -errno;
		thread.own_umask = true;
		thread.umask = ~mask;
	}
	if (thread.umask != mask)
		(void)umask(mask);
	thread.umask = mask;
	return 0;
}

void credentials_reset(void)
{
	struct credential root = { .uid = 0 };
	int error = credentials_assume(&root);

	assert(!error);
	if (thread.own_umask && thread.umask != 0)
		(void)umask(thread.umask = 0);
}

bool credentials_lift(void)
{
	if (!thread.known || thread.now.uid == 0)
		return false;
	(void)setfsuid(0);
	return true;
}

void credentials_drop(bool lifted)
{
	if (lifted)
		(void)setfsuid(thread.now.uid);
}
