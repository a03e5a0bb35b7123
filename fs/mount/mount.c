#include "fs/mount/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/mount/elsewhere.h"
#include "fs/mount/handover.h"
#include "fs/mount/inode.h"
#include "fs/mount/log.h"
#include "fs/mount/member.h"
#include "fs/mount/memory.h"
#include "fs/mount/mountpoint.h"
#include "fs/mount/ops.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/rules.h"
#include "fs/mount/write_back.h"
#include "transport/tls.h"

#define THREADS_MAX 1024 /* that serve the kernel */
#define REQUEST_BYTES_MAX (1u << 20)
#define CACHE_WAIT_S 5 /* for one whose daemon is ending: most take far less */

/* ---- small things that everybody uses ---- */

struct instant mount_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (struct instant){ (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec };
}

static int64_t apart_ns(const struct timespec *later, const struct timespec *sooner)
{
	return (int64_t)(later->tv_sec - sooner->tv_sec) * (int64_t)NS_PER_S + later->tv_nsec -
	       sooner->tv_nsec;
}

int64_t mount_suspended_ns(void)
{
	struct timespec before, boot, after;
	int64_t apart = 0, window, best = INT64_MAX;

	/* Of some looks the one in which this thread was kept waiting least between the clocks. */
	for (int i = 0; i < 10 && best > (int64_t)NS_PER_MS; i++) {
		clock_gettime(CLOCK_MONOTONIC, &before);
		clock_gettime(CLOCK_BOOTTIME, &boot);
		clock_gettime(CLOCK_MONOTONIC, &after);
		window = apart_ns(&after, &before);
		if (window < best) {
			best = window;
			apart = apart_ns(&boot, &before);
		}
	}
	return apart;
}

unsigned mount_reply_begin(struct mount *m)
{
	unsigned token = m->reply_generation & 1;

	m->replies[token]++;
	return token;
}

void mount_reply_end(struct mount *m, unsigned token)
{
	pthread_mutex_lock(&m->lock);
	if (--m->replies[token] == 0)
		pthread_cond_broadcast(&m->replies_done);
	pthread_mutex_unlock(&m->lock);
}

void mount_replies_drain(struct mount *m)
{
	unsigned old;

	pthread_mutex_lock(&m->lock);
	/* Several lanes may drain at a time: each waits for both parities that it saw. */
	while (m->replies[(m->reply_generation + 1) & 1] > 0)
		pthread_cond_wait(&m->replies_done, &m->lock);
	old = m->reply_generation++ & 1;
	while (m->replies[old] > 0 && (m->reply_generation & 1) != old)
		pthread_cond_wait(&m->replies_done, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

/* ---- options ---- */

/* KEYS/HOST:PORT, where this host's certificates for the origin are. */
static int prepare_keys(struct member *mb)
{
	struct mount *m = &mb->mount;
	const char *host = strstr(m->origin_url, "://") + 3;
	struct tls_error error = { "" };
	struct utsname names;
	const char *name = m->options->host_name;
	int r;

	if (strncmp(m->origin_url, "http://", 7) == 0)
		return 0;
	if (asprintf(&mb->tls_directory, "%s/%s", m->options->keys, host) < 0)
		return -ENOMEM;
	if (m->options->join && *m->options->join) {
		if (mkdir(m->options->keys, 0700) < 0 && errno != EEXIST) {
			r = -errno;
			mount_log("error", "cannot make %s for this host's certificates: %s",
				  m->options->keys, strerror(errno));
			return r;
		}
		if (!name || !*name)
			name = uname(&names) == 0 ? names.nodename : "host";
		r = tls_join(m->origin_url, m->options->join, mb->tls_directory, name, &error);
		if (r < 0) {
			mount_log("error", "%s", error.text);
			return r;
		}
	}
	if (!tls_joined(mb->tls_directory)) {
		mount_log("error", "this host has not joined origin %s yet (no certificate in %s); "
			  "give the token that the origin printed: --join TOKEN", m->origin_url,
			  mb->tls_directory);
		return -EACCES;
	}
	return 0;
}

static int check_options(const struct mount_options *o)
{
	const char *threads = o->threads ? o->threads : "auto";
	char *end;
	long count = strtol(threads, &end, 10);

	if (strcmp(threads, "auto") != 0 && (*end || count < 1 || count > THREADS_MAX)) {
		mount_log("error", "threads=%s is not known; give auto, or a number up to %d", threads,
			  THREADS_MAX);
		return -EINVAL;
	}
	if (o->memory && o->memory < MEMORY_BYTES_MIN) {
		mount_log("error", "memory=%" PRIu64 " is too little; give 64M or more", o->memory);
		return -EINVAL;
	}
	if (!o->passthrough || strcmp(o->passthrough, "sealed") == 0 ||
	    strcmp(o->passthrough, "off") == 0)
		return 0;
	mount_log("error", "passthrough=%s is not known; give sealed or off", o->passthrough);
	return -EINVAL;
}

/* ---- FUSE ---- */

static void want(struct fuse_conn_info *connection, uint32_t capability, bool on)
{
	if (!on)
		connection->want &= ~capability;
	else if (connection->capable & capability)
		connection->want |= capability;
}

static void op_init(void *data, struct fuse_conn_info *connection)
{
	struct mount *m = data;

	want(connection, FUSE_CAP_EXPLICIT_INVAL_DATA, true);
	want(connection, FUSE_CAP_AUTO_INVAL_DATA, false);
	want(connection, FUSE_CAP_ATOMIC_O_TRUNC, false);
	/* The origin clears what writing, truncating and chown clear, and applies umasks and default
	   access control lists: it acts as the caller, so its kernel knows the rules. */
	want(connection, FUSE_CAP_HANDLE_KILLPRIV_V2, true);
	want(connection, FUSE_CAP_POSIX_ACL, true);
	want(connection, FUSE_CAP_DONT_MASK, true);
	want(connection, FUSE_CAP_EXPORT_SUPPORT, true);
	want(connection, FUSE_CAP_WRITEBACK_CACHE, false);
	want(connection, FUSE_CAP_READDIRPLUS, true);
	want(connection, FUSE_CAP_READDIRPLUS_AUTO, true);
	want(connection, FUSE_CAP_PARALLEL_DIROPS, true);
	want(connection, FUSE_CAP_ASYNC_READ, true);
	want(connection, FUSE_CAP_SPLICE_READ, false);
	want(connection, FUSE_CAP_SPLICE_WRITE, false);
	want(connection, FUSE_CAP_POSIX_LOCKS, true);
	want(connection, FUSE_CAP_FLOCK_LOCKS, true);
	connection->max_write = REQUEST_BYTES_MAX;
	m->maps_writable = write_back_possible(connection);
	want(connection, FUSE_CAP_DIRECT_IO_ALLOW_MMAP, m->maps_writable);
	m->unopened = m->options->small && (connection->capable & FUSE_CAP_NO_OPEN_SUPPORT);
	passthrough_negotiate(m, connection);
	/* Write-back that a recall waits for must find room beside reads that wait for others. */
	connection->max_background = 1024;
	connection->congestion_threshold = 768;
	connection->time_gran = 1;
}

const struct fuse_lowlevel_ops mount_operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.create = op_create,
	.tmpfile = op_tmpfile,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.copy_file_range = op_copy_file_range,
	.getlk = op_getlk,
	.setlk = op_setlk,
	.flock = op_flock,
};

/* ---- life ---- */

/* Forked before any thread exists. */
static int start_guardian(struct mount *m)
{
	struct guardian_config config = {
		.inode_count_max = PAGE_INODE_COUNT_MAX,
		.abort_after = duration_ms(2000),
		.mountpoint = m->options->mountpoint,
		.log_to_stderr = m->options->foreground || log_file() >= 0,
		.log_fd = log_file(),
	};
	int r = guardian_start(&config, &m->guardian);

	if (r < 0)
		mount_log("error", "cannot start the guardian process: %s; is the limit of "
			  "processes reached (ulimit -u)?", strerror(-r));
	return r;
}

/*
 * The cache, or a daemon that has it and serves the mount with it (then *ret_socket is not -1). umount(8)
 * returns a moment before a daemon has ended: then neither is to be had, and both are tried again.
 */
static int find_cache(struct member *mb, struct cache **ret_cache, int *ret_socket)
{
	const struct mount_options *o = mb->mount.options;
	const struct cache_limits limits = {
		.bytes_max = o->cache_size,
		.files_max = memory_cache_files(o),
		.free_bytes_min = o->cache_free,
	};
	char text[512] = "";
	int r;

	for (unsigned ms = 0;; ms += 50) {
		r = cache_open_limited(o->cache, &limits, ret_cache, text, sizeof(text));
		if (r != -EBUSY)
			break;
		r = elsewhere_mount(mb, ret_socket);
		if (r != -EAGAIN)
			return r;
		r = -EBUSY;
		if (ms >= CACHE_WAIT_S * 1000)
			break;
		usleep(50000);
	}
	if (r < 0)
		mount_log("error", "%s", *text ? text : strerror(-r));
	return r;
}

/* The mount from its guardian on; `mb` is gone afterwards. */
static int run(struct member *mb, int ready_pipe)
{
	struct cache *cache = NULL;
	struct daemon *d = NULL;
	int socket = -1, r;

	memory_prepare(mb->mount.options);
	r = start_guardian(&mb->mount);
	if (r == 0)
		r = daemon_create(mb->mount.options, ready_pipe, &d);
	if (r == 0)
		r = prepare_keys(mb);
	if (r == 0)
		r = find_cache(mb, &cache, &socket);
	if (r == 0 && cache) {
		r = daemon_run(d, mb, cache);
		mb = NULL; /* the daemon's */
	} else if (r == 0) {
		bool told = daemon_tell(d, 0);

		if (!told) {
			mount_log("error", "the process that started the mount is gone; it is undone");
			r = handover_say(socket, HANDOVER_STOP, 0);
		}
		if (mb->mount.options->foreground || !told)
			r = elsewhere_wait(d, mb, socket);
		close(socket);
	}
	if (d)
		daemon_destroy(d);
	if (mb && mb->mount.guardian)
		guardian_stop(mb->mount.guardian);
	member_destroy(mb);
	return r;
}

/* Waits in front until the child says that the mount answers, or why there is none. */
static int wait_ready(pid_t child, int pipe_fd)
{
	uint8_t byte;
	int status;

	if (read(pipe_fd, &byte, 1) == 1)
		return -(int)byte;
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -EIO;
	return WEXITSTATUS(status) ? -WEXITSTATUS(status) : -EIO;
}

static int prepare(struct member *mb)
{
	const struct mount_options *o = mb->mount.options;
	int r = member_parse_url(&mb->mount);

	if (r == 0)
		r = check_options(o);
	if (r == 0)
		r = mountpoint_check(o);
	if (r == 0 && o->log && *o->log) {
		r = log_open(o->log);
		if (r < 0)
			mount_log("error", "log file %s: %s", o->log, strerror(-r));
	}
	return r;
}

/* As mount_run(), with the policy read. */
static int start_and_run(const struct mount_options *options)
{
	struct member *mb = member_create(NULL, options);
	int pipe_fds[2], r;
	pid_t child = -1;

	if (!mb)
		return -ENOMEM;
	r = prepare(mb);
	if (r == 0 && options->foreground)
		return run(mb, -1);
	if (r == 0 && (pipe2(pipe_fds, O_CLOEXEC) < 0 || (child = fork()) < 0))
		r = -errno;
	if (r < 0) {
		member_destroy(mb);
		return r;
	}
	if (child > 0) {
		close(pipe_fds[1]);
		member_destroy(mb);
		return wait_ready(child, pipe_fds[0]);
	}
	close(pipe_fds[0]);
	(void)setsid(); /* fails only for a group leader, which a child is not */
	r = run(mb, pipe_fds[1]);
	_exit(r < 0 ? -r & 0x7f : 0);
}

int mount_run(const struct mount_options *given)
{
	struct mount_options options = *given;
	char *policy = NULL;
	int r = 0;

	/* Here, where the name means what the user meant: another process may serve the mount. */
	if (options.policy && *options.policy)
		r = rules_read(options.policy, &policy);
	if (r < 0)
		return r;
	options.policy_text = policy;
	r = start_and_run(&options);
	free(policy);
	return r;
}
