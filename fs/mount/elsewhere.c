#include "fs/mount/elsewhere.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mount/handover.h"
#include "fs/mount/mountpoint.h"

/* How long the daemon may take for what it does before it answers: besides a session, the end of what
   was begun. */
#define PREPARE_S (SESSION_WAIT_S + 45)

static int is_stuck(const struct member *mb, int process)
{
	const char *cache = mb->mount.options->cache;

	mount_log("error", "the cache directory %s is in use by process %d, which does not answer; is it "
		  "stopped? Continue it (kill -CONT %d) or end it, or give this mount a cache of its own",
		  cache, process, process);
	return -ETIMEDOUT;
}

static int connect_to(struct member *mb, int *ret_process)
{
	const char *cache = mb->mount.options->cache;
	int fd = handover_connect(cache, ret_process);

	if (fd == -ENOENT)
		return -EAGAIN;
	if (fd == -EBUSY)
		return is_stuck(mb, *ret_process);
	if (fd == -EPERM)
		mount_log("error", "the cache directory %s is in use by process %d of another user; give "
			  "this mount a cache of its own", cache, *ret_process);
	else if (fd < 0)
		mount_log("error", "the daemon that has the cache directory %s cannot be asked: %s", cache,
			  strerror(-fd));
	return fd;
}

static void warn(const char *cache, const char *option, uint64_t asked, uint64_t is)
{
	if (asked != is)
		mount_log("warning", "--%s %" PRIu64 " has no effect: the cache %s is in use, with %" PRIu64,
			  option, asked, cache, is);
}

/* Sends what there is, and waits until it is taken up. -EAGAIN: it is not. */
static int ask(struct member *mb, int socket, int process)
{
	const struct mount_options *o = mb->mount.options;
	const struct handover request = { .kind = HANDOVER_REQUEST };
	struct handover accepted;
	uint8_t *options = malloc(HANDOVER_OPTIONS_MAX);
	int fds[HANDOVER_FDS], length, r;

	if (!options)
		return -ENOMEM;
	fds[0] = mb->mount.fuse_fd;
	guardian_parts(mb->mount.guardian, fds + 1);
	fds[1 + GUARDIAN_PARTS] = mb->keys_fd;
	length = handover_options_encode(o, options);
	r = length < 0 ? length : handover_send(socket, &request, options, (size_t)length, fds);
	free(options);
	if (r == 0)
		r = handover_receive(socket, HANDOVER_ACCEPTED, HANDOVER_ANSWER_S * 1000, &accepted);
	if (r == -EPIPE || r == -ECONNRESET)
		return -EAGAIN;
	if (r == -EAGAIN || r == -ETIMEDOUT)
		return is_stuck(mb, process);
	if (r < 0) {
		mount_log("error", "process %d, which has the cache directory %s, cannot be asked: %s",
			  process, o->cache, strerror(-r));
		return r;
	}
	if (accepted.kind == HANDOVER_FAILED) {
		mount_log("error", "%s", accepted.text);
		return accepted.error < 0 ? accepted.error : -EIO;
	}
	warn(o->cache, "cache-size", o->cache_size, accepted.cache_size);
	warn(o->cache, "cache-files", o->cache_files, accepted.cache_files);
	warn(o->cache, "cache-free", o->cache_free, accepted.cache_free);
	warn(o->cache, "memory", o->memory, accepted.memory);
	return 0;
}

/* The daemon's next word, or why there is none. */
static int hear(struct member *mb, int socket, int process, enum handover_kind kind, unsigned seconds,
		struct handover *ret_message)
{
	int r = handover_receive(socket, kind, (int)seconds * 1000, ret_message);

	if (r == -ETIMEDOUT)
		return is_stuck(mb, process);
	if (r < 0)
		mount_log("error", "process %d, which has the cache directory %s, has ended meanwhile",
			  process, mb->mount.options->cache);
	else if (ret_message->kind == HANDOVER_FAILED)
		mount_log("error", "%s", *ret_message->text ? ret_message->text :
							       strerror(-ret_message->error));
	if (r == 0 && ret_message->kind == HANDOVER_FAILED)
		r = ret_message->error < 0 ? ret_message->error : -EIO;
	return r;
}

/* A session with the origin, and a look for each directory of the URL. */
static unsigned patience(const struct mount_options *o)
{
	return PREPARE_S + (unsigned)(o->timeout / 1000);
}

/* mount(2), and the first look at it. What went wrong here the daemon hears. */
static int attach(struct member *mb, int socket, int process)
{
	const struct mount_options *o = mb->mount.options;
	struct handover message, attached = { .kind = HANDOVER_ATTACHED },
			answers = { .kind = HANDOVER_ANSWERS };
	dev_t device = 0;
	struct stat st;
	int r, told;

	r = hear(mb, socket, process, HANDOVER_ATTACH, patience(o), &message);
	if (r < 0)
		return r;
	r = mountpoint_attach(o, mb->mount.fuse_fd, message.read_only, &device);
	attached.device = device;
	attached.error = r;
	told = handover_send(socket, &attached, NULL, 0, NULL);
	if (r < 0 || told < 0)
		goto undone;
	r = hear(mb, socket, process, HANDOVER_SERVING, PREPARE_S, &message);
	if (r < 0)
		goto undone;
	if (stat(o->mountpoint, &st) < 0) {
		answers.error = -errno;
		answers.gone = !mountpoint_is(o, device);
		if (answers.gone)
			answers.error = 0;
		else
			mount_log("error", "the mount on %s does not answer: %s", o->mountpoint,
				  strerror(-answers.error));
	}
	r = answers.error;
	told = handover_send(socket, &answers, NULL, 0, NULL);
	if (r == 0 && told == 0)
		return hear(mb, socket, process, HANDOVER_READY, PREPARE_S, &message);
undone:
	/* Until it is: the daemon unmounts what it knows of. */
	if (told == 0)
		(void)!handover_receive(socket, HANDOVER_ENDED, PREPARE_S * 1000, &message);
	if (device && mountpoint_is(o, device))
		(void)umount2(o->mountpoint, MNT_DETACH); /* its daemon is gone, or it was never served */
	return r < 0 ? r : -EPIPE;
}

/* The daemon has duplicates. */
static void let_go(struct member *mb)
{
	close(mb->mount.fuse_fd);
	mb->mount.fuse_fd = -1;
	if (mb->keys_fd >= 0)
		close(mb->keys_fd);
	mb->keys_fd = -1;
}

int elsewhere_mount(struct member *mb, int *ret_socket)
{
	const struct mount_options *o = mb->mount.options;
	int process = 0, socket = connect_to(mb, &process), r;

	if (socket < 0)
		return socket;
	if (mb->tls_directory) {
		mb->keys_fd = open(mb->tls_directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (mb->keys_fd < 0) {
			r = -errno;
			mount_log("error", "%s: %s", mb->tls_directory, strerror(errno));
			close(socket);
			return r;
		}
	}
	r = member_open_fuse(&mb->mount);
	if (r == 0)
		r = ask(mb, socket, process);
	if (r == 0) {
		r = attach(mb, socket, process);
		guardian_release(mb->mount.guardian);
		mb->mount.guardian = NULL;
	}
	let_go(mb);
	if (r < 0) {
		close(socket);
		return r;
	}
	mount_log("info", "%s mounted on %s, by process %d, which has the cache %s", o->url, o->mountpoint,
		  process, o->cache);
	*ret_socket = socket;
	return 0;
}

int elsewhere_wait(struct daemon *d, const struct member *mb, int socket)
{
	struct handover ended;
	int r;

	daemon_relay(d, socket);
	r = handover_receive(socket, HANDOVER_ENDED, -1, &ended);
	daemon_relay(d, -1);
	if (r < 0) {
		mount_log("error", "the process that served %s is gone; umount it and mount it again",
			  mb->mount.options->mountpoint);
		return -EIO;
	}
	if (ended.kind == HANDOVER_FAILED)
		mount_log("error", "%s: %s", mb->mount.options->mountpoint, ended.text);
	return ended.error;
}
