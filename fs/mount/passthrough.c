#include "fs/mount/passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/mount/pages.h"
#include "fs/mount/read.h"
#include "fs/mount/seal.h"

/* <linux/fuse.h> of Linux 6.9; the system's may be older. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

#define OVERLAYFS_MAGIC 0x794c7630
#define FUSE_MAGIC 0x65735546

/* ---- what there is ---- */

void passthrough_negotiate(struct mount *m, struct fuse_conn_info *connection)
{
	const char *wanted = m->options->passthrough;
	struct statfs fs;

	m->passthrough_asked = false;
	if (!wanted || strcmp(wanted, "sealed") != 0)
		m->passthrough_lack = "passthrough is off";
	else if (m->unopened)
		m->passthrough_lack = "small: opens are not told";
	else if (!(connection->capable & FUSE_CAP_PASSTHROUGH))
		m->passthrough_lack = "this kernel has no passthrough (Linux 6.9)";
	else if (statfs(m->options->cache, &fs) == 0 &&
		 (fs.f_type == OVERLAYFS_MAGIC || fs.f_type == FUSE_MAGIC))
		m->passthrough_lack = "the cache directory is on an overlay or on FUSE";
	else
		m->passthrough_asked = true;
	if (!m->passthrough_asked)
		return;
	connection->want |= FUSE_CAP_PASSTHROUGH;
	/* Takes one of the two levels that the kernel has: one overlay fits on top. */
	connection->max_backing_stack_depth = FUSE_BACKING_STACKED_UNDER;
}

static int32_t backing_open(const struct mount *m, int fd)
{
	const struct backing_map map = { .fd = fd };
	int id = ioctl(m->fuse_fd, BACKING_OPEN, &map);

	return id > 0 ? id : id < 0 ? -errno : -EINVAL;
}

static void backing_close(const struct mount *m, int32_t id)
{
	uint32_t number = (uint32_t)id;

	(void)ioctl(m->fuse_fd, BACKING_CLOSE, &number); /* it goes with the connection at the latest */
}

static const char *lack_of(int error)
{
	switch (error) {
	case EPERM:
		return "passthrough needs CAP_SYS_ADMIN";
	case ELOOP:
		return "the cache directory is on a stacked file system";
	default:
		return "the kernel takes no file of the cache's file system";
	}
}

void passthrough_probe(struct mount *m)
{
	const char *cache = m->options->cache;
	int fd, direct_fd;
	int32_t id;

	if (m->passthrough_asked) {
		fd = open(cache, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		id = fd < 0 ? -errno : backing_open(m, fd);
		if (id > 0)
			backing_close(m, id);
		else
			m->passthrough_lack = lack_of(-id);
		if (fd >= 0)
			close(fd);
		direct_fd = open(cache, O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
		m->passthrough_direct = direct_fd >= 0;
		if (direct_fd >= 0)
			close(direct_fd);
		m->passthrough_on = id > 0;
	}
	if (m->passthrough_on)
		mount_log("info", "passthrough: sealed files are read from the cache by the kernel");
	else
		mount_log("info", "no passthrough: %s; sealed files are read as others are",
			  m->passthrough_lack);
}

/* ---- what holds now ---- */

bool passthrough_sealed(struct mount *m, struct inode *inode)
{
	/* What was registered under a seal has the inode's bytes for ever, whatever else changes. */
	return inode->live->backing.id || inode_sealed(m, inode, mount_now(), NULL);
}

/* Under the lock. */
static struct mode_facts facts_of(struct mount *m, struct inode *inode)
{
	return (struct mode_facts){
		.can_pass = m->passthrough_on && S_ISREG(inode->type),
		.sealed = passthrough_sealed(m, inode),
		.pages = inode->live->pages && !m->unguarded,
		.backs_direct = m->passthrough_direct,
	};
}

/* What is cached of it, if that may be used: with its size and change. Under the lock. */
static bool standing(struct mount *m, struct inode *inode, struct change *ret_change,
		     uint64_t *ret_size)
{
	struct instant now = mount_now();
	struct attributes known;
	const struct attributes *attributes = inode_attributes(m, inode, now, &known);

	if (!attributes || !inode_lease(m, inode, now, ret_change))
		return false;
	*ret_size = attributes->size;
	return true;
}

/* ---- opens ---- */

void passthrough_prepare(struct mount *m, struct inode *inode, struct mode_request request,
			 struct backing *ret_backing)
{
	struct backing backing = { 0 };
	struct mode_facts facts;
	uint64_t size = 0;
	bool wanted;
	int fd;

	*ret_backing = backing;
	pthread_mutex_lock(&m->lock);
	facts = facts_of(m, inode);
	wanted = mode_wants_backing(&inode->live->modes, &facts, request) &&
		 standing(m, inode, &backing.change, &size);
	pthread_mutex_unlock(&m->lock);
	if (!wanted)
		return;
	backing.file = cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inode));
	if (!backing.file)
		return;
	cache_file_pin(backing.file);
	fd = cache_file_expose(backing.file, backing.change, size);
	if (fd >= 0) {
		backing.id = backing_open(m, fd);
		close(fd);
	}
	if (fd < 0 || backing.id < 0)
		backing.id = 0; /* not complete, or the kernel has no room: another mode */
	*ret_backing = backing;
}

struct mode_answer passthrough_answer(struct mount *m, struct inode *inode,
				      struct mode_request request, struct backing *backing)
{
	struct mode_facts facts = facts_of(m, inode);
	struct mode_answer answer;
	struct change change;
	uint64_t size;
	bool good = backing->id && standing(m, inode, &change, &size) &&
		    change_equal(change, backing->change);
	bool passes = inode->live->modes.passthrough > 0 ||
		      (good && mode_wants_backing(&inode->live->modes, &facts, request));

	/* Without, it is DIRECT_IO; so is what could be stored to through a descriptor from before it was
	   sealed. */
	if (request.reads && !passes)
		facts.pages = pages_allow(m, inode) && !m->unguarded &&
			      !(inode->live->mappable > 0 && inode->final);
	answer = mode_open(&inode_live(inode)->modes, &facts, request, good ? backing->id : 0);
	if (answer.backing_id && answer.backing_id == backing->id) {
		inode_live(inode)->backing = *backing;
		*backing = (struct backing){ 0 };
	}
	if (answer.mode == MODE_PASSTHROUGH)
		COUNT(m, passthroughs);
	return answer;
}

void passthrough_release(struct inode *inode, enum mode mode, struct mode_request request,
			 struct backing *ret_backing)
{
	*ret_backing = (struct backing){ 0 };
	if (mode_release(&inode_live(inode)->modes, mode, request)) {
		*ret_backing = inode->live->backing;
		inode_live(inode)->backing = (struct backing){ 0 };
	}
}

void passthrough_drop(struct mount *m, struct backing *backing)
{
	if (backing->id)
		backing_close(m, backing->id);
	if (backing->file) {
		cache_file_unpin(backing->file);
		cache_file_put(backing->file);
	}
	*backing = (struct backing){ 0 };
}

/* ---- what the user is told ---- */

static const char *const reasons[] = {
	[MODE_IS_SEALED] = "its bytes are final, and all of them are in this host's cache",
	[MODE_SEAL_LOST] = "open in passthrough since before its bytes were not known to be final",
	[MODE_HAS_WRITER] = "open for writing",
	[MODE_NO_ROOM] = "no more files may have pages in the kernel",
	[MODE_NOT_SEALED] = "not sealed",
	[MODE_CANNOT_PASS] = "its bytes are final, but ",
	[MODE_INCOMPLETE] = "its bytes are final, but not all of them are in this host's cache",
	[MODE_OPEN_OTHERWISE] = "its bytes are final, but it is open in this mode since before",
};

/* All of it is cached, at the change that stands. */
static bool is_complete(struct mount *m, struct inode *inode, bool leased, struct change change,
			uint64_t size)
{
	struct cache_file *file;
	bool complete;

	if (!leased)
		return false;
	file = cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inode));
	complete = file && cache_file_complete(file, change, size);
	if (file)
		cache_file_put(file);
	return complete;
}

char *passthrough_mode_text(struct mount *m, struct inode *inode)
{
	struct mode_state state;
	struct mode_facts facts;
	enum mode_reason reason;
	struct change change;
	const char *lack;
	uint64_t size = 0;
	enum mode mode;
	bool leased;
	char *text;

	pthread_mutex_lock(&m->lock);
	state = inode->live->modes;
	facts = facts_of(m, inode);
	/* An inode gets its slot with its first open. */
	facts.pages = !m->unguarded && (inode->live->pages || m->unopened || guardian_room(m->guardian) > 0);
	leased = standing(m, inode, &change, &size);
	lack = m->passthrough_lack ? m->passthrough_lack : "";
	pthread_mutex_unlock(&m->lock);
	mode = mode_of(&state, &facts, is_complete(m, inode, leased, change, size), &reason);
	if (!leased && (reason == MODE_NOT_SEALED || reason == MODE_NO_ROOM))
		return strdup("proxy: no lease; what is read next asks the origin");
	if (reason == MODE_NO_ROOM && m->unguarded)
		return strdup("direct: the guardian process is gone");
	if (asprintf(&text, "%s: %s%s", mode_name(mode), reasons[reason],
		     reason == MODE_CANNOT_PASS ? lack : "") < 0)
		return NULL;
	return text;
}
