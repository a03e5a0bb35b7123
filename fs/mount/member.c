#include "fs/mount/member.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mount/bdi.h"
#include "fs/mount/bulk.h"
#include "fs/mount/call.h"
#include "fs/mount/handover.h"
#include "fs/mount/inode.h"
#include "fs/mount/locks.h"
#include "fs/mount/memory.h"
#include "fs/mount/log.h"
#include "fs/mount/mountpoint.h"
#include "fs/mount/nodeids.h"
#include "fs/mount/notifier.h"
#include "fs/mount/ops.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/subdirectory.h"
#include "fs/mount/write_back.h"

#define LEASE_COUNT_MAX 1000000
#define RECALL_WINDOW_MAX 4096
#define FENCE_MARGIN_MS 500

/*
 * How a mount ends, and how long that takes at most. umount(8) of a mount that nobody uses needs
 * nobody: then unwind() takes STOP_MAX_S. SIGTERM of a busy one first gives FENCE_MAX_S to the dropping
 * of what the kernel has. A mount that cannot be ended in time is given up: its guardian then aborts the
 * connection and drops the rest.
 */
#define FENCE_MAX_S 5
#define WRITE_BACK_MAX_MS 2000 /* of a busy mount, before that: what was stored to mappings */
#define CALLS_END_MAX_S 5
#define STOP_MAX_S 20
#define LOOP_WAKE_MS 10
#define OPEN_FETCH_MAX_MS 2000 /* what a first read would take, and not what an open may */
#define ELSEWHERE_MAX_S 60     /* for the command that has a mount point of ours, to mount and look */

static void sleep_ms(unsigned ms)
{
	usleep(ms * 1000);
}

/* ---- made and taken apart ---- */

struct member *member_create(struct daemon *d, const struct mount_options *options)
{
	struct member *mb = calloc(1, sizeof(*mb));
	struct mount *m;

	if (!mb)
		return NULL;
	m = &mb->mount;
	m->options = options;
	m->fuse_fd = -1;
	m->open_fetch_max_ms = OPEN_FETCH_MAX_MS;
	m->space = (struct statvfs){ .f_bsize = 4096, .f_frsize = 4096, .f_namemax = NAME_BYTES_MAX };
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->replies_done, NULL);
	mb->daemon = d;
	mb->keys_fd = -1;
	mb->socket = -1;
	mb->number = UINT32_MAX;
	pthread_mutex_init(&mb->lock, NULL);
	pthread_cond_init(&mb->loops_ended, NULL);
	return mb;
}

void member_destroy(struct member *mb)
{
	struct mount *m;

	if (!mb)
		return;
	m = &mb->mount;
	bulk_finish(m);
	free(m->export);
	free(m->origin_url);
	free(mb->tls_directory);
	free(mb->loops);
	free(mb->texts);
	if (mb->keys_fd >= 0)
		close(mb->keys_fd);
	if (mb->socket >= 0)
		close(mb->socket);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->replies_done);
	pthread_mutex_destroy(&mb->lock);
	pthread_cond_destroy(&mb->loops_ended);
	free(mb);
}

int member_parse_url(struct mount *m)
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

/* ---- threads that serve the kernel ---- */

static void *loop(void *context)
{
	struct member *mb = context;
	struct mount *m = &mb->mount;
	struct fuse_buf buffer = { 0 };

	while (!fuse_session_exited(m->fuse)) {
		int r;

		bulk_receive(m, &buffer);
		r = fuse_session_receive_buf(m->fuse, &buffer);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r <= 0)
			break;
		fuse_session_process_buf(m->fuse, &buffer);
	}
	free(buffer.mem);
	pthread_mutex_lock(&mb->lock);
	if (--mb->loops_running == 0)
		pthread_cond_broadcast(&mb->loops_ended);
	pthread_mutex_unlock(&mb->lock);
	return NULL;
}

/* More than there are processors take turns, and each wakes up to find its caches cold. */
static unsigned loops_wanted(const char *text)
{
	long count = text ? strtol(text, NULL, 10) : 0; /* 0 for auto, too; mount.c has checked it */

	if (count > 0)
		return (unsigned)count;
	count = sysconf(_SC_NPROCESSORS_ONLN);
	return count < 2 ? 2 : count > 4 ? 4 : (unsigned)count;
}

static int start_loops(struct member *mb)
{
	unsigned count = loops_wanted(mb->mount.options->threads);
	int r = 0;

	mb->loops = calloc(count, sizeof(*mb->loops));
	if (!mb->loops)
		return -ENOMEM;
	pthread_mutex_lock(&mb->lock);
	while (r == 0 && mb->loop_count < count) {
		r = -pthread_create(&mb->loops[mb->loop_count], NULL, loop, mb);
		if (r == 0) {
			mb->loop_count++;
			mb->loops_running++;
		}
	}
	pthread_mutex_unlock(&mb->lock);
	return r;
}

/* Waits until all have ended. They are joined in one section: until then each can be signalled. */
static void join_loops(struct member *mb)
{
	pthread_mutex_lock(&mb->lock);
	while (mb->loops_running > 0)
		pthread_cond_wait(&mb->loops_ended, &mb->lock);
	while (mb->loop_count > 0)
		pthread_join(mb->loops[--mb->loop_count], NULL);
	pthread_mutex_unlock(&mb->lock);
}

/* The root inode, known to the kernel from the start. */
static int make_root(struct mount *m, const struct item_node *root)
{
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_get(m, &root->handle, root->attributes.mode);
	if (inode) {
		inode_looked_up(m, inode);
		/* Not cached: attributes.c, reply_mountpoint(). */
		inode_set_attributes(m, inode, &root->attributes, 0);
	}
	pthread_mutex_unlock(&m->lock);
	return inode ? 0 : -ENOMEM;
}

/*
 * The loops wait in read(2) for requests: a signal without an effect makes them look whether they
 * are to end. Again and again, since it may come right before the read.
 */
static void end_loops(struct member *mb)
{
	bool running = true;

	fuse_session_exit(mb->mount.fuse);
	while (running) {
		pthread_mutex_lock(&mb->lock);
		running = mb->loops_running > 0;
		for (unsigned i = 0; i < mb->loop_count; i++)
			(void)pthread_kill(mb->loops[i], SIGUSR1);
		pthread_mutex_unlock(&mb->lock);
		sleep_ms(LOOP_WAKE_MS);
	}
}

/* ---- start ---- */

/* What a command in another process wants; that it is taken up. */
static int take_request(struct member *mb)
{
	const struct mount_options *own = daemon_options(mb->daemon);
	struct handover accepted = { .kind = HANDOVER_ACCEPTED, .process = (int32_t)getpid(),
				     .cache_size = own->cache_size, .cache_files = own->cache_files,
				     .cache_free = own->cache_free,
				     .memory = own->memory };
	struct mount *m = &mb->mount;
	int fds[HANDOVER_FDS], r;

	r = handover_receive_request(mb->socket, &mb->options, &mb->texts, fds);
	if (r < 0) {
		for (unsigned i = 0; i < HANDOVER_FDS; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		if (r == -EPROTO)
			mount_log("error", "the daemon that has the cache (process %d) is version "
				  LEASEHOLD_VERSION ", not this command's: unmount what it has first",
				  (int)getpid());
		return r;
	}
	m->options = &mb->options;
	mb->options.cache = own->cache; /* that the command saw it by another path is no matter here */
	mb->options.memory = own->memory; /* of the process: each of its mounts sheds */
	m->elsewhere = true;
	m->fuse_fd = fds[0];
	mb->keys_fd = fds[1 + GUARDIAN_PARTS];
	r = guardian_adopt(fds + 1, &m->guardian);
	if (r == 0)
		r = member_parse_url(m);
	if (r == 0 && mb->keys_fd >= 0 &&
	    asprintf(&mb->tls_directory, "/proc/self/fd/%d", mb->keys_fd) < 0)
		r = -ENOMEM;
	if (r == 0)
		r = handover_send(mb->socket, &accepted, NULL, 0, NULL);
	return r;
}

/* Whoever has the mount point says the next thing: 0 or -errno. He has said why to his user. */
static int hear(struct member *mb, enum handover_kind kind, struct handover *ret_message)
{
	int r = handover_receive(mb->socket, kind, ELSEWHERE_MAX_S * 1000, ret_message);

	return r < 0 ? r : ret_message->error;
}

/* By whoever has the mount point. It is mounted from the moment on in which that is told. */
static int attach_elsewhere(struct member *mb)
{
	const struct handover attach = { .kind = HANDOVER_ATTACH,
					 .read_only = mb->mount.read_only };
	struct handover attached;
	int r = handover_send(mb->socket, &attach, NULL, 0, NULL);

	if (r == 0)
		r = hear(mb, HANDOVER_ATTACHED, &attached);
	if (r < 0)
		return r;
	pthread_mutex_lock(&mb->lock);
	mb->device = (dev_t)attached.device;
	mb->mounted = true;
	r = mb->cancelled ? -EINTR : 0;
	pthread_mutex_unlock(&mb->lock);
	return r;
}

static int attach_here(struct member *mb)
{
	struct mount *m = &mb->mount;
	int r;

	pthread_mutex_lock(&mb->lock);
	r = mb->cancelled ? -EINTR : mountpoint_attach(m->options, m->fuse_fd, m->read_only, &mb->device);
	mb->mounted = r == 0;
	pthread_mutex_unlock(&mb->lock);
	return r;
}

int member_open_fuse(struct mount *m)
{
	int r;

	m->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (m->fuse_fd >= 0)
		return 0;
	r = -errno;
	mount_log("error", "/dev/fuse: %s; load the fuse module, or give the container the device",
		  strerror(-r));
	return r;
}

/* Mounts /dev/fuse. The guardian gets its duplicate before anything is served. */
static int attach(struct member *mb)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct mount *m = &mb->mount;
	char path[32];
	int r = m->fuse_fd < 0 ? member_open_fuse(m) : 0;

	if (r < 0)
		return r;
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
	r = m->elsewhere ? attach_elsewhere(mb) : attach_here(mb);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/dev/fd/%d", m->fuse_fd);
	if (fuse_session_mount(m->fuse, path) < 0)
		return -EIO;
	mb->fuse_has_fd = true;
	return 0;
}

/* The first request: it answers when the whole path does. 1: it is unmounted already. */
static int try_it(struct member *mb)
{
	const struct mount_options *o = mb->mount.options;
	struct handover answers;
	struct stat st;
	int r;

	if (mb->mount.elsewhere) {
		r = handover_say(mb->socket, HANDOVER_SERVING, 0);
		if (r == 0)
			r = hear(mb, HANDOVER_ANSWERS, &answers);
		return r < 0 ? r : answers.gone;
	}
	if (stat(o->mountpoint, &st) == 0)
		return 0;
	r = -errno;
	if (!mountpoint_is(o, mb->device))
		return 1;
	mount_log("error", "the mount on %s does not answer: %s", o->mountpoint, strerror(-r));
	return r;
}

/* What the mount consists of but threads that serve the kernel; it has a session then, and its root. */
static int prepare(struct member *mb)
{
	struct mount *m = &mb->mount;
	struct client_config client = {
		.url = m->origin_url,
		.tls_directory = mb->tls_directory,
		.data_connections = 2,
		.connect_timeout = duration_ms(5000),
		.call_count_max = CALL_COUNT_MAX + 64,
		.lean = m->options->memory > 0,
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
	int r;

	(void)!getrandom(&seed, sizeof(seed), 0); /* jitter of retries only */
	m->read_only = m->options->read_only || m->options->small;
	m->daemon = mb->daemon;
	m->cache = daemon_cache(mb->daemon);
	m->number = daemon_number(mb->daemon, mb);
	r = client_create(&client, &m->client, text, sizeof(text));
	if (r < 0) {
		mount_log("error", "%s", *text ? text : strerror(-r));
		return r;
	}
	slab_init(&m->holder_slab);
	m->holder_allocator = slab_allocator(&m->holder_slab);
	r = holder_create(&holder, &m->holder_allocator, seed, &m->holder);
	if (r == 0)
		r = inode_table_create(&m->inodes);
	m->nodeids = nodeids_load(m);
	if (r == 0)
		r = locks_create(m); /* before there are threads that look at it */
	if (r == 0)
		r = rules_create(m);
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
		r = rules_start(m);
	return r;
}

static int start(struct member *mb)
{
	struct mount *m = &mb->mount;
	const struct mount_options *o = m->options;
	int r = prepare(mb);

	if (r == 0)
		r = attach(mb);
	if (r == 0)
		r = memory_start(m);
	if (r == 0)
		r = prefetch_start(m);
	if (r == 0)
		r = start_loops(mb);
	if (r < 0)
		return r;
	r = try_it(mb);
	if (r == 1)
		mount_log("info", "%s was unmounted at once", o->mountpoint);
	if (r != 0)
		return r < 0 ? r : 0;
	m->has_epoch = (o->kernel_names || o->small) && notifier_probe_epoch(m);
	if (m->maps_writable)
		write_back_limit(mb->device);
	r = bdi_set(mb->device, "read_ahead_kb", BDI_READ_AHEAD_KIB);
	if (r < 0)
		mount_log("info", "the kernel reads less ahead: /sys/class/bdi: %s", strerror(-r));
	passthrough_probe(m);
	r = guardian_mounted(m->guardian, mb->device, m->has_epoch);
	if (r < 0)
		mount_log("warning", "the guardian process is gone: %s", strerror(-r));
	if (o->small && !m->unopened)
		mount_log("info", "small: this kernel tells every open");
	if ((o->kernel_names || o->small) && !m->has_epoch)
		mount_log("info", "names do not stay in the kernel: that needs Linux 6.16");
	mount_log("info", "%s mounted on %s", o->url, o->mountpoint);
	return 0;
}

/* ---- end ---- */

/*
 * Ends a mount that is in use: calls fail, then what the kernel has is dropped, and only then does
 * the connection go, since it would serve its pages for ever. `here`: it is at its mount point.
 */
static void force_unmount(struct member *mb, bool here)
{
	struct mount *m = &mb->mount;

	mount_log("warning", "%s is %s; its users get ENOTCONN from now on",
		  m->options->mountpoint, here ? "busy" : "in use, though unmounted");
	daemon_expect_end(mb->daemon, mb, WRITE_BACK_MAX_MS / 1000 + FENCE_MAX_S + STOP_MAX_S);
	write_back_all(m, WRITE_BACK_MAX_MS);
	calls_shut(m, STATUS_IO);
	locks_shut(m);
	session_abandon(m);
	for (unsigned ms = 0; !session_is_fenced(m); ms += LOOP_WAKE_MS) {
		if (ms >= FENCE_MAX_S * 1000) {
			mount_log("error", "what the kernel has of %s cannot be dropped in time; it is "
				  "left to the guardian", m->options->mountpoint);
			daemon_give_up(mb->daemon, mb);
			end_loops(mb); /* the mount stays, so that no job writes to what is below */
			return;
		}
		sleep_ms(LOOP_WAKE_MS);
	}
	if (here && mountpoint_unmount(m, MNT_FORCE | MNT_DETACH) == 0)
		return;
	end_loops(mb);
}

static void *stopper(void *context)
{
	struct member *mb = context;
	struct mount *m = &mb->mount;

	/* By now something else may be at the mount point. */
	if (!mountpoint_is_here(m, mb->device))
		force_unmount(mb, false);
	else if (mountpoint_unmount(m, 0) < 0)
		force_unmount(mb, true);
	pthread_mutex_lock(&mb->lock);
	mb->stopper_done = true;
	pthread_mutex_unlock(&mb->lock);
	return NULL;
}

void member_stop(struct member *mb)
{
	pthread_mutex_lock(&mb->lock);
	mb->cancelled = true;
	if (mb->mounted && !mb->stopping && (!mb->has_stopper || mb->stopper_done)) {
		if (mb->has_stopper)
			pthread_join(mb->stopper, NULL); /* it does nothing more */
		mb->stopper_done = false;
		mb->has_stopper = pthread_create(&mb->stopper, NULL, stopper, mb) == 0;
	}
	pthread_mutex_unlock(&mb->lock);
}

bool member_is_mounted(struct member *mb)
{
	bool mounted;

	pthread_mutex_lock(&mb->lock);
	mounted = mb->mounted || mb->stopping;
	pthread_mutex_unlock(&mb->lock);
	return mounted;
}

void member_abandon(struct member *mb)
{
	pthread_mutex_lock(&mb->lock);
	if (mb->mount.guardian && !mb->guardian_left)
		guardian_abandon(mb->mount.guardian);
	pthread_mutex_unlock(&mb->lock);
}

/* From here on the guardian does nothing more, and nobody else talks to it. */
static void leave_guardian(struct member *mb)
{
	pthread_mutex_lock(&mb->lock);
	mb->guardian_left = true;
	pthread_mutex_unlock(&mb->lock);
	guardian_stop(mb->mount.guardian);
}

/*
 * Unwinds whatever start() made, within STOP_MAX_S. What is in the kernel is dropped before the
 * origin hears that the session is over: it then lets others' changes go on.
 */
static void unwind(struct member *mb, bool served)
{
	struct mount *m = &mb->mount;
	bool mounted;

	daemon_expect_end(mb->daemon, mb, STOP_MAX_S);
	pthread_mutex_lock(&mb->lock);
	mb->stopping = true;
	mounted = mb->mounted;
	pthread_mutex_unlock(&mb->lock);
	if (mounted && mb->loop_count == 0)
		(void)mountpoint_unmount(m, MNT_DETACH); /* nobody ever used it */
	else if (mounted && !fuse_session_exited(m->fuse))
		(void)mountpoint_unmount(m, MNT_FORCE | MNT_DETACH);
	join_loops(mb);
	if (mb->has_stopper)
		pthread_join(mb->stopper, NULL);
	prefetch_stop(m);
	rules_stop(m);
	if (m->calls)
		calls_shut(m, STATUS_IO);
	locks_shut(m);
	/* The ticker ends what is parked, the client what is in flight. */
	for (unsigned ms = 0; m->calls && ms < CALLS_END_MAX_S * 1000 && calls_count(m) > 0; ms += 10)
		sleep_ms(10);
	memory_stop(m); /* what it asks of the kernel may wait for a READ: they are answered */
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
		leave_guardian(mb);
	data_forget_all(m);
	rules_destroy_all(m);
	if (m->inodes) {
		if (served)
			nodeids_save(m);
		inode_table_destroy(m);
	}
	nodeids_destroy(m->nodeids);
	session_discard(m);
	calls_destroy(m);
	locks_destroy(m);
	holder_destroy(m->holder);
	slab_finish(&m->holder_slab);
	memory_free(m);
	prefetch_free(m);
	if (m->fuse)
		fuse_session_destroy(m->fuse);
	if (m->fuse_fd >= 0 && !mb->fuse_has_fd)
		close(m->fuse_fd);
}

/* Whoever asked for the mount hears that it answers. False: he is gone, and believes that it is not there. */
static bool tell(struct member *mb)
{
	bool told;

	told = mb->mount.elsewhere ? handover_say(mb->socket, HANDOVER_READY, 0) == 0 :
				     daemon_tell(mb->daemon, 0);
	if (!told)
		mount_log("error", "the process that started the mount on %s is gone; it is undone",
			  mb->mount.options->mountpoint);
	return told;
}

/* Serves until it is unmounted. */
static void serve(struct member *mb)
{
	struct mount *m = &mb->mount;

	if (tell(mb))
		daemon_member_ready(mb->daemon, mb);
	else
		member_stop(mb);
	join_loops(mb);
	pthread_mutex_lock(&mb->lock);
	mb->mounted = false;
	mb->stopping = true;
	pthread_mutex_unlock(&mb->lock);
	if (guardian_aborted(m->guardian))
		mount_log("error", "the guardian ended this mount, since the daemon was late; "
			  "umount %s and mount it again", m->options->mountpoint);
}

void *member_main(void *context)
{
	struct member *mb = context;
	int r = 0;

	if (mb->socket >= 0) {
		/* What goes wrong is told to who asked for it. */
		log_capture(mb->failure, sizeof(mb->failure));
		r = take_request(mb);
	}
	if (r == 0)
		r = start(mb);
	log_capture(NULL, 0);
	if (r == 0)
		serve(mb);
	unwind(mb, r == 0);
	daemon_member_ended(mb->daemon, mb, r);
	return NULL;
}
