#include "fs/mount/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/mount/bdi.h"
#include "fs/mount/call.h"
#include "fs/mount/inode.h"
#include "fs/mount/locks.h"
#include "fs/mount/nodeids.h"
#include "fs/mount/notifier.h"
#include "fs/mount/ops.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/session.h"
#include "fs/mount/subdirectory.h"
#include "fs/mount/state.h"
#include "fs/mount/status.h"
#include "fs/mount/write_back.h"
#include "transport/tls.h"

#define SESSION_WAIT_S 15
#define LEASE_COUNT_MAX 1000000
#define RECALL_WINDOW_MAX 4096
#define FENCE_MARGIN_MS 500
#define REQUEST_BYTES_MAX (1u << 20)

/*
 * How a mount ends, and how long that takes at most. umount(8) of a mount that nobody uses needs
 * nobody: then stop() takes STOP_MAX_S. SIGTERM of a busy one first gives FENCE_MAX_S to the dropping
 * of what the kernel has. A daemon that does not manage in time exits as it is: the guardian then
 * aborts the connection and drops the rest.
 */
#define FENCE_MAX_S 5
#define WRITE_BACK_MAX_MS 2000 /* of a busy mount, before that: what was stored to mappings */
#define CALLS_END_MAX_S 5
#define STOP_MAX_S 20
#define CACHE_WAIT_S 5 /* for one that is ending: most take far less */
#define LOOP_WAKE_MS 10
#define OPEN_FETCH_MAX_MS 2000 /* what a first read would take, and not what an open may */

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

static bool log_to_syslog;
static int log_fd = -1;

void mount_log(const char *level, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (log_to_syslog)
		syslog(strcmp(level, "info") == 0 ? LOG_INFO : LOG_WARNING, "%s: %s", level, text);
	else
		fprintf(stderr, "leasehold mount: %s: %s\n", level, text);
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

struct daemon {
	struct mount mount;
	struct handle root;
	char *keys;          /* this origin's folder of certificates */
	int ready_pipe;      /* to the parent that waits; -1 in the foreground */
	pthread_t *loops;
	/* Of what follows, between the main thread, the loops and the thread of signals. */
	pthread_mutex_t mount_lock;
	pthread_cond_t loops_ended;
	unsigned loop_count;        /* that are not joined */
	unsigned loops_running;
	bool mounted;               /* by mount(2), and not known to be unmounted */
	bool served;                /* it was mounted, and has ended */
	dev_t device;
	pthread_t signal_thread;
	bool has_signal_thread;
	atomic_bool finished;       /* the thread of signals is to end */
};

/* https://HOST:PORT/EXPORT into its parts. */
static int parse_url(struct mount *m)
{
	const char *url = m->options->url, *rest, *slash;
	size_t length;
	bool https = strncmp(url, "https://", 8) == 0;

	if (!https && strncmp(url, "http://", 7) != 0) {
		mount_log("error", "%s is not a URL of an origin; expected "
			  "https://HOST:PORT/EXPORT", url);
		return -EINVAL;
	}
	rest = url + (https ? 8 : 7);
	slash = strchr(rest, '/');
	length = slash ? strcspn(slash + 1, "/") : 0;
	if (length == 0 || slash == rest) {
		mount_log("error", "%s names no export; expected https://HOST:PORT/EXPORT", url);
		return -EINVAL;
	}
	if (!https && strncmp(rest, "127.", 4) != 0 && strncmp(rest, "localhost", 9) != 0 &&
	    strncmp(rest, "[::1]", 5) != 0) {
		mount_log("error", "%s: cleartext is for loopback only; use https://", url);
		return -EINVAL;
	}
	m->subdirectory = slash + 1 + length;
	m->export = strndup(slash + 1, length);
	m->origin_url = strndup(url, (size_t)(slash - url));
	if (!m->export || !m->origin_url)
		return -ENOMEM;
	m->cache_space = cache_space(m->origin_url, m->export);
	return 0;
}

/* KEYS/HOST:PORT, where this host's certificates for the origin are. */
static int prepare_keys(struct daemon *d)
{
	struct mount *m = &d->mount;
	const char *host = strstr(m->origin_url, "://") + 3;
	struct tls_error error = { "" };
	struct utsname names;
	const char *name = m->options->host_name;
	int r;

	if (asprintf(&d->keys, "%s/%s", m->options->keys, host) < 0)
		return -ENOMEM;
	if (strncmp(m->origin_url, "http://", 7) == 0)
		return 0;
	if (m->options->join && *m->options->join) {
		if (mkdir(m->options->keys, 0700) < 0 && errno != EEXIST) {
			r = -errno;
			mount_log("error", "cannot make %s for this host's certificates: %s",
				  m->options->keys, strerror(errno));
			return r;
		}
		if (!name || !*name)
			name = uname(&names) == 0 ? names.nodename : "host";
		r = tls_join(m->origin_url, m->options->join, d->keys, name, &error);
		if (r < 0) {
			mount_log("error", "%s", error.text);
			return r;
		}
	}
	if (!tls_joined(d->keys)) {
		mount_log("error", "this host has not joined origin %s yet (no certificate in %s); "
			  "give the token that the origin printed: --join TOKEN", m->origin_url,
			  d->keys);
		return -EACCES;
	}
	return 0;
}

/* A mount of ours; another kind of file system may be covered, as mount(8) lets it. */
static bool is_mounted(const char *path)
{
	struct statx x;

	return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &x) == 0 &&
	       (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) &&
	       getxattr(path, STATUS_XATTR, NULL, 0) >= 0;
}

static int check_options(const struct mount_options *o)
{
	if (!o->passthrough || strcmp(o->passthrough, "sealed") == 0 ||
	    strcmp(o->passthrough, "off") == 0)
		return 0;
	mount_log("error", "passthrough=%s is not known; give sealed or off", o->passthrough);
	return -EINVAL;
}

static int check_mountpoint(struct mount *m)
{
	const char *path = m->options->mountpoint;
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

static void *loop(void *context)
{
	struct daemon *d = context;
	struct mount *m = &d->mount;
	struct fuse_buf buffer = { 0 };

	while (!fuse_session_exited(m->fuse)) {
		int r = fuse_session_receive_buf(m->fuse, &buffer);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r <= 0)
			break;
		fuse_session_process_buf(m->fuse, &buffer);
	}
	free(buffer.mem);
	pthread_mutex_lock(&d->mount_lock);
	if (--d->loops_running == 0)
		pthread_cond_broadcast(&d->loops_ended);
	pthread_mutex_unlock(&d->mount_lock);
	return NULL;
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

/* Our mount is what is at the mount point: nobody unmounted it, or mounted over it. */
static bool is_here(const struct daemon *d)
{
	dev_t device;

	return device_at(d->mount.options->mountpoint, &device) && device == d->device;
}

/* Opens /dev/fuse and mounts it. The guardian gets its duplicate before anything is served. */
static int attach(struct daemon *d)
{
	struct mount *m = &d->mount;
	char options[256], path[32];
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	unsigned long flags = MS_NOATIME | (m->read_only ? MS_RDONLY : 0) |
			      (m->options->no_suid ? MS_NOSUID : 0) |
			      (m->options->no_dev ? MS_NODEV : 0) |
			      (m->options->no_exec ? MS_NOEXEC : 0) |
			      (m->options->sync ? MS_SYNCHRONOUS : 0);
	int r;

	m->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (m->fuse_fd < 0) {
		r = -errno;
		mount_log("error", "/dev/fuse: %s; load the fuse module, or give the container the "
			  "device", strerror(errno));
		return r;
	}
	r = guardian_give(m->guardian, m->fuse_fd);
	if (r < 0) {
		mount_log("error", "the guardian process is gone: %s", strerror(-r));
		return r;
	}
	if (fuse_opt_add_arg(&args, "leasehold") < 0)
		return -ENOMEM;
	m->fuse = fuse_session_new(&args, &mount_operations, sizeof(mount_operations), m);
	fuse_opt_free_args(&args);
	if (!m->fuse)
		return -ENOMEM;
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
		 m->fuse_fd);
	pthread_mutex_lock(&d->mount_lock);
	r = mount(m->options->url, m->options->mountpoint, "fuse.leasehold", flags, options) < 0 ?
		    -errno : 0;
	d->mounted = r == 0;
	if (r == 0)
		(void)device_at(m->options->mountpoint, &d->device); /* it was just mounted */
	pthread_mutex_unlock(&d->mount_lock);
	if (r < 0) {
		mount_log("error", "cannot mount on %s: %s; is the directory still there, and may this "
			  "process mount (CAP_SYS_ADMIN)?", m->options->mountpoint, strerror(-r));
		return r;
	}
	snprintf(path, sizeof(path), "/dev/fd/%d", m->fuse_fd);
	if (fuse_session_mount(m->fuse, path) < 0)
		return -EIO;
	return 0;
}

static int start_loops(struct daemon *d)
{
	unsigned count = d->mount.options->threads ? d->mount.options->threads : 1;
	int r = 0;

	d->loops = calloc(count, sizeof(*d->loops));
	if (!d->loops)
		return -ENOMEM;
	pthread_mutex_lock(&d->mount_lock);
	while (r == 0 && d->loop_count < count) {
		r = -pthread_create(&d->loops[d->loop_count], NULL, loop, d);
		if (r == 0) {
			d->loop_count++;
			d->loops_running++;
		}
	}
	pthread_mutex_unlock(&d->mount_lock);
	return r;
}

/* Waits until all have ended. They are joined in one section: until then each can be signalled. */
static void join_loops(struct daemon *d)
{
	pthread_mutex_lock(&d->mount_lock);
	while (d->loops_running > 0)
		pthread_cond_wait(&d->loops_ended, &d->mount_lock);
	while (d->loop_count > 0)
		pthread_join(d->loops[--d->loop_count], NULL);
	pthread_mutex_unlock(&d->mount_lock);
}

/* The root inode, known to the kernel from the start. */
static int make_root(struct mount *m, const struct item_node *root)
{
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_get(m, &root->handle, root->attributes.mode);
	if (inode) {
		inode_looked_up(m, inode);
		inode->attributes = root->attributes; /* not cached: attributes.c, reply_mountpoint() */
	}
	pthread_mutex_unlock(&m->lock);
	return inode ? 0 : -ENOMEM;
}

/* ---- life ---- */

/* False: whoever started the mount is gone, and believes that it is not mounted. */
static bool tell_parent(struct daemon *d)
{
	/* The parent sees the byte and exits 0; without it, it exits with our status. */
	bool told = write(d->ready_pipe, "+", 1) == 1;

	if (!told)
		mount_log("error", "the process that started the mount is gone; it is undone");
	close(d->ready_pipe);
	d->ready_pipe = -1;
	return told;
}

/* Nothing of the caller's is kept: whoever reads its output to the end does not wait for us. */
static void to_background(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (chdir("/") < 0)
		mount_log("warning", "cannot change to /: %s", strerror(errno));
	if (log_fd < 0) {
		openlog("leasehold", LOG_PID, LOG_DAEMON);
		log_to_syslog = true;
	}
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		if (log_to_syslog)
			dup2(null, STDERR_FILENO);
		close(null);
	}
}

static void sleep_ms(unsigned ms)
{
	usleep(ms * 1000);
}

/*
 * The loops wait in read(2) for requests: a signal without an effect makes them look whether they
 * are to end. Again and again, since it may come right before the read.
 */
static void end_loops(struct daemon *d)
{
	bool running = true;

	fuse_session_exit(d->mount.fuse);
	while (running) {
		pthread_mutex_lock(&d->mount_lock);
		running = d->loops_running > 0;
		for (unsigned i = 0; i < d->loop_count; i++)
			(void)pthread_kill(d->loops[i], SIGUSR1);
		pthread_mutex_unlock(&d->mount_lock);
		sleep_ms(LOOP_WAKE_MS);
	}
}

/*
 * Ends a mount that is in use: calls fail, then what the kernel has is dropped, and only then does
 * the connection go, since it would serve its pages for ever. `here`: it is at its mount point.
 */
static void force_unmount(struct daemon *d, bool here)
{
	struct mount *m = &d->mount;

	mount_log("warning", "%s is %s; its users get ENOTCONN from now on",
		  m->options->mountpoint, here ? "busy" : "in use, though unmounted");
	write_back_all(m, WRITE_BACK_MAX_MS);
	calls_shut(m, STATUS_IO);
	locks_shut(m);
	session_abandon(m);
	for (unsigned ms = 0; !session_is_fenced(m); ms += LOOP_WAKE_MS) {
		if (ms >= FENCE_MAX_S * 1000) {
			mount_log("error", "what the kernel has of %s cannot be dropped in time; it is "
				  "left to the guardian", m->options->mountpoint);
			_exit(EXIT_FAILURE);
		}
		sleep_ms(LOOP_WAKE_MS);
	}
	if (here && umount2(m->options->mountpoint, MNT_FORCE | MNT_DETACH) == 0)
		return;
	end_loops(d);
}

static void stop_by_signal(struct daemon *d, int signal_number)
{
	struct mount *m = &d->mount;
	bool served;

	pthread_mutex_lock(&d->mount_lock);
	served = d->served;
	if (!d->mounted && !served) {
		mount_log("error", "ended by signal %d before it was mounted", signal_number);
		_exit(EXIT_FAILURE);
	}
	pthread_mutex_unlock(&d->mount_lock);
	if (served)
		return; /* it is ending already */
	/* By now something else may be at the mount point. */
	if (!is_here(d))
		force_unmount(d, false);
	else if (umount2(m->options->mountpoint, 0) < 0)
		force_unmount(d, true);
}

static void *signals(void *context)
{
	struct daemon *d = context;
	sigset_t set;
	int signal_number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	while (sigwait(&set, &signal_number) == 0 && !atomic_load(&d->finished))
		stop_by_signal(d, signal_number);
	return NULL;
}

static void wake(int signal_number)
{
}

static int block_signals(void)
{
	struct sigaction action = { .sa_handler = wake }; /* interrupts read(2): no SA_RESTART */
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGUSR1, &action, NULL);
	return -pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* Forked before any thread exists. */
static int start_guardian(struct daemon *d)
{
	struct mount *m = &d->mount;
	struct guardian_config config = {
		.inode_count_max = PAGE_INODE_COUNT_MAX,
		.abort_after = duration_ms(2000),
		.mountpoint = m->options->mountpoint,
		.log_to_stderr = d->ready_pipe < 0 || log_fd >= 0,
		.log_fd = log_fd,
	};
	int r = guardian_start(&config, &m->guardian);

	if (r < 0)
		mount_log("error", "cannot start the guardian process: %s; is the limit of "
			  "processes reached (ulimit -u)?", strerror(-r));
	return r;
}

static int start(struct daemon *d)
{
	struct mount *m = &d->mount;
	const struct mount_options *o = m->options;
	struct client_config client = {
		.url = m->origin_url,
		.data_connections = 2,
		.connect_timeout = duration_ms(5000),
		.call_count_max = CALL_COUNT_MAX + 64,
	};
	const struct cache_limits limits = {
		.bytes_max = o->cache_size,
		.files_max = o->cache_files,
		.free_bytes_min = o->cache_free,
	};
	struct holder_config holder = {
		.fence_margin = duration_ms(FENCE_MARGIN_MS),
		.lease_count_max = LEASE_COUNT_MAX,
		.recall_window_max = RECALL_WINDOW_MAX,
		.retry_min_ms = 50,
		.retry_max_ms = 2000,
	};
	struct item_node root;
	char text[512] = "";
	uint64_t seed = 0;
	struct stat st;
	int r;

	(void)!getrandom(&seed, sizeof(seed), 0); /* jitter of retries only */
	r = prepare_keys(d);
	if (r < 0)
		return r;
	client.tls_directory = strncmp(m->origin_url, "http://", 7) == 0 ? NULL : d->keys;
	/* umount(8) returns a moment before the daemon has ended: the next one waits for it. */
	for (unsigned ms = 0;; ms += 50) {
		r = cache_open_limited(o->cache, &limits, &m->cache, text, sizeof(text));
		if (r != -EBUSY || ms >= CACHE_WAIT_S * 1000)
			break;
		sleep_ms(50);
	}
	if (r < 0) {
		mount_log("error", "%s", *text ? text : strerror(-r));
		return r;
	}
	r = client_create(&client, &m->client, text, sizeof(text));
	if (r < 0) {
		mount_log("error", "%s", *text ? text : strerror(-r));
		return r;
	}
	r = holder_create(&holder, &session_allocator, seed, &m->holder);
	if (r == 0)
		r = inode_table_create(&m->inodes);
	m->nodeids = nodeids_load(o->cache);
	if (r == 0)
		r = locks_create(m); /* before there are threads that look at it */
	if (r == 0)
		r = calls_create(m);
	if (r == 0)
		r = notifier_create(m);
	if (r < 0) {
		mount_log("error", "cannot start: %s", strerror(-r));
		return r;
	}
	r = session_start(m, (struct duration){ SESSION_WAIT_S * NS_PER_S }, &root, text,
			  sizeof(text));
	if (r == 0)
		r = subdirectory_find(m, m->subdirectory, &root, text, sizeof(text));
	if (r < 0) {
		mount_log("error", "%s", *text ? text : strerror(-r));
		return r;
	}
	r = make_root(m, &root);
	if (r == 0)
		r = attach(d);
	if (r == 0)
		r = start_loops(d);
	if (r < 0)
		return r;
	/* The first request: it answers when the whole path does. */
	if (stat(o->mountpoint, &st) < 0) {
		r = -errno;
		if (!is_here(d)) {
			mount_log("info", "%s was unmounted at once", o->mountpoint);
			return 0;
		}
		mount_log("error", "the mount on %s does not answer: %s", o->mountpoint,
			  strerror(errno));
		return r;
	}
	m->has_epoch = (o->kernel_names || o->small) && notifier_probe_epoch(m);
	if (m->maps_writable)
		write_back_limit(d->device);
	r = bdi_set(d->device, "read_ahead_kb", BDI_READ_AHEAD_KIB);
	if (r < 0)
		mount_log("info", "the kernel reads less ahead: /sys/class/bdi: %s", strerror(-r));
	passthrough_probe(m);
	r = guardian_mounted(m->guardian, d->device, m->has_epoch);
	if (r < 0)
		mount_log("warning", "the guardian process is gone: %s", strerror(-r));
	if (o->small && !m->unopened)
		mount_log("info", "small: this kernel tells every open");
	if ((o->kernel_names || o->small) && !m->has_epoch)
		mount_log("info", "names do not stay in the kernel: that needs Linux 6.16");
	mount_log("info", "%s mounted on %s", o->url, o->mountpoint);
	return 0;
}

static void stop_is_late(int signal_number)
{
	static const char text[] = "leasehold mount: error: the end takes too long; the guardian does "
				   "the rest\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(EXIT_FAILURE);
}

/*
 * Unwinds whatever start() made, within STOP_MAX_S. What is in the kernel is dropped before the
 * origin hears that the session is over: it then lets others' changes go on.
 */
static void stop(struct daemon *d)
{
	struct mount *m = &d->mount;

	signal(SIGALRM, stop_is_late);
	alarm(STOP_MAX_S);
	if (d->mounted && d->loop_count == 0)
		(void)umount2(m->options->mountpoint, MNT_DETACH); /* nobody ever used it */
	else if (d->mounted && !fuse_session_exited(m->fuse))
		(void)umount2(m->options->mountpoint, MNT_FORCE | MNT_DETACH);
	join_loops(d);
	if (d->has_signal_thread) {
		atomic_store(&d->finished, true);
		(void)pthread_kill(d->signal_thread, SIGHUP);
		pthread_join(d->signal_thread, NULL);
	}
	free(d->loops);
	if (m->calls)
		calls_shut(m, STATUS_IO);
	locks_shut(m);
	/* The ticker ends what is parked, the client what is in flight. */
	for (unsigned ms = 0; m->calls && ms < CALLS_END_MAX_S * 1000 && calls_count(m) > 0; ms += 10)
		sleep_ms(10);
	if (m->session)
		session_stop(m);
	if (m->notifier)
		notifier_destroy(m);
	if (m->guardian)
		guardian_renew(m->guardian, (struct instant){ 0 });
	if (m->session)
		session_close(m);
	client_destroy(m->client);
	calls_stop(m);
	if (m->guardian)
		guardian_stop(m->guardian);
	data_forget_all(m);
	if (m->inodes) {
		if (d->served)
			nodeids_save(m);
		inode_table_destroy(m);
	}
	nodeids_destroy(m->nodeids);
	session_discard(m);
	calls_destroy(m);
	locks_destroy(m);
	holder_destroy(m->holder);
	if (m->fuse)
		fuse_session_destroy(m->fuse);
	if (m->cache)
		cache_close(m->cache);
	free(m->export);
	free(m->origin_url);
	free(d->keys);
	alarm(0);
}

/* Serves until it is unmounted. */
static void serve(struct daemon *d)
{
	struct mount *m = &d->mount;

	/* Until here errors went to whoever started the mount. */
	if (log_fd >= 0)
		dup2(log_fd, STDERR_FILENO);
	if (d->ready_pipe >= 0) {
		to_background();
		if (!tell_parent(d))
			(void)pthread_kill(d->signal_thread, SIGTERM);
	}
	join_loops(d);
	pthread_mutex_lock(&d->mount_lock);
	d->mounted = false;
	d->served = true;
	pthread_mutex_unlock(&d->mount_lock);
	if (guardian_aborted(m->guardian))
		mount_log("error", "the guardian ended this mount, since the daemon was late; "
			  "umount %s and mount it again", m->options->mountpoint);
}

static int run(struct daemon *d)
{
	int r = block_signals();

	if (r == 0)
		r = start_guardian(d);
	if (r == 0) {
		r = -pthread_create(&d->signal_thread, NULL, signals, d);
		d->has_signal_thread = r == 0;
	}
	if (r == 0)
		r = start(d);
	if (r == 0)
		serve(d);
	stop(d);
	return r;
}

/* Waits in front until the child says that the mount answers. */
static int wait_ready(pid_t child, int pipe_fd)
{
	int status;
	char byte;

	if (read(pipe_fd, &byte, 1) == 1)
		return 0;
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -EIO;
	return WEXITSTATUS(status) ? -WEXITSTATUS(status) : -EIO;
}

int mount_run(const struct mount_options *options)
{
	struct daemon *d = calloc(1, sizeof(*d));
	struct mount *m;
	int pipe_fds[2], r;
	pid_t child;

	if (!d)
		return -ENOMEM;
	m = &d->mount;
	m->options = options;
	m->read_only = options->read_only || options->small;
	m->fuse_fd = -1;
	m->open_fetch_max_ms = OPEN_FETCH_MAX_MS;
	d->ready_pipe = -1;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->replies_done, NULL);
	pthread_mutex_init(&d->mount_lock, NULL);
	pthread_cond_init(&d->loops_ended, NULL);
	m->space = (struct statvfs){ .f_bsize = 4096, .f_frsize = 4096, .f_namemax = NAME_BYTES_MAX };
	r = parse_url(m);
	if (r == 0)
		r = check_options(options);
	if (r == 0)
		r = check_mountpoint(m);
	if (r == 0 && options->log && *options->log) {
		log_fd = open(options->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (log_fd < 0) {
			r = -errno;
			mount_log("error", "log file %s: %s", options->log, strerror(errno));
		}
	}
	if (r == 0 && !options->foreground) {
		if (pipe2(pipe_fds, O_CLOEXEC) < 0 || (child = fork()) < 0) {
			r = -errno;
		} else if (child > 0) {
			close(pipe_fds[1]);
			r = wait_ready(child, pipe_fds[0]);
			free(m->export);
			free(m->origin_url);
			free(d);
			return r;
		} else {
			close(pipe_fds[0]);
			d->ready_pipe = pipe_fds[1];
			(void)setsid(); /* fails only for a group leader, which a child is not */
		}
	}
	if (r == 0) {
		bool child_process = d->ready_pipe >= 0;

		r = run(d);
		free(d);
		if (child_process)
			_exit(r < 0 ? -r & 0x7f : 0);
		return r;
	}
	free(m->export);
	free(m->origin_url);
	free(d);
	return r;
}
