#include "fs/mount/guardian_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

/* Newer than the headers of the systems that we build on; numbers are the kernel's ABI. */
#define NOTIFY_INVAL_INODE 2
#define NOTIFY_INC_EPOCH 8 /* Linux 6.16 */
#define FUSECTL_MAGIC 0x65735543
#define FSOPEN_CLOEXEC_FLAG 1
#define FSCONFIG_CREATE 6
#define FSMOUNT_CLOEXEC_FLAG 1

/* How often it looks while the daemon is late: fractions of abort_after. */
#define LOOKS_PER_ABORT 8
#define LOOK_INTERVAL_MAX_NS (250 * NS_PER_MS)

struct process {
	struct guardian_shared *shared;
	char mountpoint[PATH_MAX];
	uint64_t abort_after_ns;
	bool log_to_stderr;
	int log_fd;
	int socket, poke_fd, timer_fd;
	int control_fd; /* the directory of fusectl; -1: cannot be had here */
	int fuse_fd;    /* -1 until given */
	int daemon_pidfd;
	pid_t daemon_pid;
	uint64_t device;
	bool mounted, has_epoch;

	/* The thread that invalidates, since an invalidation can hang. */
	int work_fd, done_fd;
	_Atomic uint64_t invalidating_since; /* 0: not in one */
	bool busy;       /* a pass was asked for and has not come back */
	bool pass_again; /* another one was asked for meanwhile */

	bool dead;                /* the daemon is */
	bool late;                /* the deadline has passed, or the daemon is dead */
	bool aborted;
	bool abort_failed;
	bool passed_since_abort;  /* a whole pass began after the abort and came back */
	bool pass_is_after_abort; /* the one under way is such a pass */
	uint64_t pass_at;         /* when the last pass began */
	uint64_t waiting_since;   /* requests were seen to wait at every look since; 0: not */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void report(const struct process *p, const char *format,
							 ...)
{
	char line[PATH_MAX + 512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	if (!p->log_to_stderr) {
		syslog(LOG_ERR, "%s", line);
		return;
	}
	line[length++] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)length); /* nowhere else to say it */
}

/* One notification is one write: a header with unique 0 and the code where the error goes. */
static int notify(int fuse_fd, int code, const void *body, size_t length)
{
	struct fuse_out_header header = {
		.len = (uint32_t)(sizeof(header) + length),
		.error = code,
	};
	struct iovec pieces[2] = { { &header, sizeof(header) }, { (void *)(uintptr_t)body, length } };

	return writev(fuse_fd, pieces, length ? 2 : 1) < 0 ? -errno : 0;
}

static void pass(struct process *p)
{
	if (p->has_epoch)
		(void)notify(p->fuse_fd, NOTIFY_INC_EPOCH, NULL, 0);
	for (uint32_t i = 0; i < p->shared->slot_count; i++) {
		struct fuse_notify_inval_inode_out all = {
			.ino = atomic_load(&p->shared->slots[i]),
		};

		if (all.ino == 0)
			continue;
		atomic_store(&p->invalidating_since, now_ns());
		/* -ENOENT: the kernel has forgotten the inode, and its pages with it. */
		(void)notify(p->fuse_fd, NOTIFY_INVAL_INODE, &all, sizeof(all));
		atomic_store(&p->invalidating_since, 0);
	}
}

static void *invalidator_main(void *argument)
{
	struct process *p = argument;
	uint64_t count;

	while (read(p->work_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
		pass(p);
		count = 1;
		(void)!write(p->done_fd, &count, sizeof(count)); /* cannot be full */
	}
	return NULL;
}

static void begin_pass(struct process *p, uint64_t now)
{
	uint64_t one = 1;

	p->pass_again = p->busy; /* the one under way may be past what came in since */
	if (p->busy)
		return;
	p->busy = true;
	p->pass_at = now;
	p->pass_is_after_abort = p->aborted;
	(void)!write(p->work_fd, &one, sizeof(one)); /* cannot be full */
}

/*
 * The directory that has a directory of every FUSE connection. Where it is not mounted (most
 * containers) a mount of our own does that nobody else sees.
 */
static int open_control(void)
{
	int fd = open("/sys/fs/fuse/connections", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;
	int context;

	if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == FUSECTL_MAGIC)
		return fd;
	if (fd >= 0)
		close(fd);
	context = (int)syscall(SYS_fsopen, "fusectl", FSOPEN_CLOEXEC_FLAG);
	if (context < 0)
		return -1;
	fd = -1;
	if (syscall(SYS_fsconfig, context, FSCONFIG_CREATE, NULL, NULL, 0) == 0)
		fd = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC_FLAG, 0);
	close(context);
	return fd;
}

static int open_connection_file(const struct process *p, const char *name, int flags)
{
	char path[64];

	if (p->control_fd < 0)
		return -1;
	snprintf(path, sizeof(path), "%u/%s", minor(p->device), name);
	return openat(p->control_fd, path, flags | O_CLOEXEC);
}

/* Requests that wait for an answer; -1: cannot be known here. */
static long waiting_count(const struct process *p)
{
	char text[32];
	int fd = open_connection_file(p, "waiting", O_RDONLY);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (length <= 0)
		return -1;
	text[length] = 0;
	return strtol(text, NULL, 10);
}

/* The kernel has ended the connection: unmounted, or aborted by somebody. */
static bool is_disconnected(const struct process *p)
{
	struct pollfd fuse = { p->fuse_fd, 0, 0 };

	return poll(&fuse, 1, 0) > 0 && (fuse.revents & POLLERR);
}

/*
 * umount2(MNT_FORCE) aborts first and then unmounts what is not busy. The mount must stay, since
 * a job would write into the directory below: so it is kept busy meanwhile.
 */
static int abort_by_mountpoint(const struct process *p)
{
	int hold = open(p->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (hold < 0)
		return -errno;
	(void)umount2(p->mountpoint, MNT_FORCE | UMOUNT_NOFOLLOW); /* EBUSY is what we want */
	close(hold);
	return is_disconnected(p) ? 0 : -EBUSY;
}

static void abort_connection(struct process *p, const char *why)
{
	int fd;

	p->waiting_since = 0;
	/* Never by number when it has ended already: the number may be another mount's by now. */
	if (!is_disconnected(p)) {
		fd = open_connection_file(p, "abort", O_WRONLY);
		if (fd >= 0) {
			(void)!write(fd, "1", 1); /* looked at below */
			close(fd);
		}
		if (!is_disconnected(p) && abort_by_mountpoint(p) < 0) {
			if (!p->abort_failed)
				report(p, "leasehold guardian: mount=%s: %s, and its connection "
				       "cannot be aborted: kill process %d, then `umount -f %s`",
				       p->mountpoint, why, (int)p->daemon_pid, p->mountpoint);
			p->abort_failed = true; /* said once, tried at every look */
			return;
		}
		report(p, "leasehold guardian: mount=%s: %s; every call fails with ENOTCONN from "
		       "now on: `umount %s`, then mount it again",
		       p->mountpoint, why, p->mountpoint);
	}
	p->aborted = true;
	atomic_store(&p->shared->aborted, true);
}

/* Why the connection must be aborted now; NULL: it need not be. */
static const char *reason_to_abort(struct process *p, uint64_t now)
{
	uint64_t since = atomic_load(&p->invalidating_since);

	if (p->dead)
		return "the daemon died";
	if (since != 0 && now > since && now - since >= p->abort_after_ns)
		return "the daemon missed its deadline and holds a read that keeps old bytes";
	if (waiting_count(p) == 0) {
		p->waiting_since = 0;
		return NULL;
	}
	if (p->waiting_since == 0)
		p->waiting_since = now;
	if (now - p->waiting_since >= p->abort_after_ns)
		return "the daemon missed its deadline and answers nothing";
	return NULL;
}

/* Looks at the time, and does what is due. */
static void step(struct process *p, uint64_t now)
{
	uint64_t deadline = atomic_load(&p->shared->deadline_ns);
	const char *why;

	if (p->dead && !p->mounted)
		_exit(0);
	if (!p->dead && !p->aborted && (!p->mounted || deadline == 0 || now < deadline)) {
		if (p->late)
			report(p, "leasehold guardian: mount=%s: the daemon is back", p->mountpoint);
		p->late = false;
		atomic_store(&p->shared->late, false);
		p->waiting_since = 0;
		return;
	}
	if (!p->late) {
		/* A renewal that came before it could see this flag is seen here. */
		atomic_store(&p->shared->late, true);
		if (!p->dead && atomic_load(&p->shared->deadline_ns) != deadline) {
			atomic_store(&p->shared->late, false);
			return;
		}
		p->late = true;
		atomic_fetch_add(&p->shared->fenced, 1);
		if (!p->dead)
			report(p, "leasehold guardian: mount=%s: the daemon missed its deadline; "
			       "what the kernel has cached is dropped", p->mountpoint);
		if (!p->dead)
			begin_pass(p, now);
	}
	if (!p->aborted) {
		why = reason_to_abort(p, now);
		if (why)
			abort_connection(p, why);
	}
	/* Again while it lasts: a daemon that is only slow may have let pages in. */
	if (p->aborted ? !p->passed_since_abort : now - p->pass_at >= p->abort_after_ns)
		begin_pass(p, now);
	/* After the abort no page can come in any more: there is nothing left to guard. */
	if (p->aborted && p->passed_since_abort)
		_exit(0);
}

static uint64_t look_interval_ns(const struct process *p)
{
	uint64_t interval = p->abort_after_ns / LOOKS_PER_ABORT;

	return interval < LOOK_INTERVAL_MAX_NS ? interval : LOOK_INTERVAL_MAX_NS;
}

static void arm(const struct process *p, uint64_t now)
{
	uint64_t at = atomic_load(&p->shared->deadline_ns);
	struct itimerspec timer = { 0 };

	if (p->late)
		at = now + look_interval_ns(p);
	else if (!p->mounted)
		at = 0; /* disarmed: nothing to guard yet, and being mounted is a message */
	timer.it_value.tv_sec = (time_t)(at / NS_PER_S);
	timer.it_value.tv_nsec = (long)(at % NS_PER_S);
	(void)timerfd_settime(p->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL); /* cannot fail */
}

static int32_t obey(struct process *p, const struct guardian_message *message, int daemon_pidfd,
		    int fd)
{
	if (daemon_pidfd < 0)
		return -EINVAL;
	if (p->daemon_pidfd >= 0)
		close(p->daemon_pidfd);
	p->daemon_pid = message->pid;
	p->daemon_pidfd = daemon_pidfd;
	if (message->kind == GUARDIAN_GIVE) {
		if (fd < 0 || p->fuse_fd >= 0)
			return -EINVAL;
		p->fuse_fd = fd;
	} else if (message->kind == GUARDIAN_MOUNTED) {
		if (p->fuse_fd < 0)
			return -EINVAL;
		p->device = message->device;
		p->has_epoch = message->has_epoch;
		p->mounted = true;
	}
	return 0;
}

static void receive(struct process *p)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(GUARDIAN_MESSAGE_FDS * sizeof(int))];
	} control;
	struct guardian_message message;
	struct iovec piece = { &message, sizeof(message) };
	struct msghdr packet = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes) };
	ssize_t length = recvmsg(p->socket, &packet, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *header;
	int fds[GUARDIAN_MESSAGE_FDS] = { -1, -1 };
	int32_t answer;

	if (length < 0)
		return;
	if (length != (ssize_t)sizeof(message)) {
		p->dead = true; /* hung up */
		return;
	}
	header = CMSG_FIRSTHDR(&packet);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	answer = obey(p, &message, fds[0], fds[1]);
	(void)send(p->socket, &answer, sizeof(answer), MSG_NOSIGNAL); /* it died: seen next */
	if (message.kind == GUARDIAN_STOP)
		_exit(0);
}

static noreturn void guard(struct process *p)
{
	struct pollfd fds[5];
	uint64_t count, now;

	for (;;) {
		now = now_ns();
		step(p, now);
		arm(p, now);
		fds[0] = (struct pollfd){ p->dead ? -1 : p->socket, POLLIN, 0 };
		fds[1] = (struct pollfd){ p->timer_fd, POLLIN, 0 };
		fds[2] = (struct pollfd){ p->poke_fd, POLLIN, 0 };
		fds[3] = (struct pollfd){ p->done_fd, POLLIN, 0 };
		fds[4] = (struct pollfd){ p->dead ? -1 : p->daemon_pidfd, POLLIN, 0 };
		if (poll(fds, 5, -1) < 0)
			continue; /* EINTR: look again */
		/* A message first: the daemon may have said good-bye before it ended. */
		if (fds[0].revents)
			receive(p);
		else if (fds[4].revents)
			p->dead = true;
		if (fds[1].revents)
			(void)!read(p->timer_fd, &count, sizeof(count));
		if (fds[2].revents)
			(void)!read(p->poke_fd, &count, sizeof(count));
		if (fds[3].revents && read(p->done_fd, &count, sizeof(count)) > 0) {
			p->busy = false;
			p->passed_since_abort = p->passed_since_abort || p->pass_is_after_abort;
			if (p->pass_again)
				begin_pass(p, now_ns());
		}
	}
}

static void keep_only(const int *keep, unsigned count)
{
	/* The kept ones are in ascending order. */
	unsigned from = 3;

	for (unsigned i = 0; i < count; i++) {
		if ((unsigned)keep[i] > from)
			(void)syscall(SYS_close_range, from, keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	(void)syscall(SYS_close_range, from, ~0u, 0); /* before Linux 5.9 some stay open */
}

/* Out of the daemon's life: its terminal, its signals, its descriptors, its directory. */
static void detach(const struct process *p)
{
	int low = p->socket < p->poke_fd ? p->socket : p->poke_fd;
	int high = p->socket < p->poke_fd ? p->poke_fd : p->socket;
	int null = open("/dev/null", O_RDWR), fd;

	for (int i = 0; i < 3 && null >= 0; i++) {
		if (i != STDERR_FILENO || !p->log_to_stderr)
			(void)dup2(null, i);
	}
	if (p->log_to_stderr && p->log_fd > 0)
		(void)dup2(p->log_fd, STDERR_FILENO);
	keep_only((int[]){ low, high }, 2);
	if (!p->log_to_stderr)
		openlog("leasehold", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	(void)setsid();
	(void)!chdir("/");
	(void)prctl(PR_SET_NAME, "leasehold-guard");
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, SIG_IGN);
	/* When memory runs out it must not be what goes; without the right to ask, it may. */
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "-1000", 5);
		close(fd);
	}
}

noreturn void guardian_process_run(const struct guardian_config *config,
				   struct guardian_shared *shared, int socket, int poke_fd)
{
	static struct process p;
	pthread_attr_t attributes;
	pthread_t thread;

	p.shared = shared;
	p.abort_after_ns = config->abort_after.ns;
	p.log_to_stderr = config->log_to_stderr;
	p.log_fd = config->log_fd;
	snprintf(p.mountpoint, sizeof(p.mountpoint), "%s", config->mountpoint);
	p.socket = socket;
	p.poke_fd = poke_fd;
	p.fuse_fd = -1;
	p.daemon_pidfd = -1;
	detach(&p);
	p.control_fd = open_control();
	p.timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	p.work_fd = eventfd(0, EFD_CLOEXEC);
	p.done_fd = eventfd(0, EFD_CLOEXEC);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 128 * 1024);
	if (p.timer_fd < 0 || p.work_fd < 0 || p.done_fd < 0 ||
	    pthread_create(&thread, &attributes, invalidator_main, &p) != 0)
		_exit(1); /* guardian_give() says so */
	(void)mlockall(MCL_CURRENT); /* it must not wait for a disk; without the right, it may */
	guard(&p);
}
