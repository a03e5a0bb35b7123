#include "fs/mount/guardian.h"

#include "fs/mount/guardian_process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long the guardian may take to answer: it does nothing long between two messages, but may have to
   wait for the processor. */
#define ANSWER_MS_MAX 20000

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define ADOPTED_SLOTS_MAX (1u << 20) /* of a guardian that another process made: what we map for it */
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct guardian {
	struct guardian_shared *shared;
	size_t shared_bytes;
	int memory_fd, socket, poke_fd, pidfd;
	/* The daemon's own: which slots are free. The guardian never looks at it. */
	pthread_mutex_t lock;
	uint32_t *free_slots;
	uint32_t free_count;
};

static void destroy(struct guardian *g)
{
	if (!g)
		return;
	if (g->shared)
		munmap(g->shared, g->shared_bytes);
	if (g->memory_fd >= 0)
		close(g->memory_fd);
	if (g->socket >= 0)
		close(g->socket);
	if (g->poke_fd >= 0)
		close(g->poke_fd);
	if (g->pidfd >= 0)
		close(g->pidfd);
	pthread_mutex_destroy(&g->lock);
	free(g->free_slots);
	free(g);
}

/* `memory_fd` becomes the guardian's, also when it fails. */
static struct guardian *allocate(int memory_fd, uint32_t slot_count)
{
	struct guardian *g = calloc(1, sizeof(*g));

	if (!g) {
		close(memory_fd);
		return NULL;
	}
	pthread_mutex_init(&g->lock, NULL);
	g->memory_fd = memory_fd;
	g->socket = -1;
	g->poke_fd = -1;
	g->pidfd = -1;
	g->shared_bytes = sizeof(*g->shared) + slot_count * sizeof(g->shared->slots[0]);
	g->shared = mmap(NULL, g->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	if (g->shared == MAP_FAILED)
		g->shared = NULL;
	g->free_slots = calloc(slot_count ? slot_count : 1, sizeof(*g->free_slots));
	if (!g->shared || !g->free_slots) {
		destroy(g);
		return NULL;
	}
	for (uint32_t i = 0; i < slot_count; i++)
		g->free_slots[i] = slot_count - 1 - i;
	g->free_count = slot_count;
	return g;
}

/* What both map; its size is fixed, since a page that is cut off would kill who looks at it. */
static int make_memory(uint32_t slot_count)
{
	size_t bytes = sizeof(struct guardian_shared) + slot_count * sizeof(uint64_t);
	int fd = memfd_create("leasehold-guardian", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, SIZE_SEALS) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -ENOMEM;
}

int guardian_start(const struct guardian_config *config, struct guardian **ret_guardian)
{
	int memory_fd = make_memory(config->inode_count_max);
	struct guardian *g = memory_fd < 0 ? NULL : allocate(memory_fd, config->inode_count_max);
	int sockets[2], rc;
	pid_t pid;

	if (!g)
		return -ENOMEM;
	g->shared->slot_count = config->inode_count_max;
	g->poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->poke_fd < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
		rc = -errno;
		destroy(g);
		return rc;
	}
	g->socket = sockets[0];
	pid = fork();
	if (pid == 0)
		guardian_process_run(config, g->shared, sockets[1], g->poke_fd);
	rc = pid < 0 ? -errno : 0;
	close(sockets[1]);
	if (rc == 0) {
		g->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		rc = g->pidfd < 0 ? -errno : 0;
	}
	if (rc < 0) {
		destroy(g); /* its socket hangs up: a guardian without a mount just ends */
		return rc;
	}
	*ret_guardian = g;
	return 0;
}

/*
 * Sends a message, with this process and `fd` if that is not -1, and waits for what became of it. The
 * process goes as a descriptor: the guardian may be in another process namespace.
 */
static int ask(struct guardian *g, struct guardian_message message, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(GUARDIAN_MESSAGE_FDS * sizeof(int))];
	} control = { 0 };
	struct iovec piece = { &message, sizeof(message) };
	struct msghdr packet = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes };
	struct pollfd wait = { g->socket, POLLIN, 0 };
	int fds[GUARDIAN_MESSAGE_FDS] = { (int)syscall(SYS_pidfd_open, getpid(), 0), fd };
	size_t bytes = (fd < 0 ? 1 : 2) * sizeof(int);
	struct cmsghdr *header;
	int32_t answer;
	int rc;

	if (fds[0] < 0)
		return -errno;
	message.pid = getpid();
	packet.msg_controllen = CMSG_SPACE(bytes);
	header = CMSG_FIRSTHDR(&packet);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(header), fds, bytes);
	rc = sendmsg(g->socket, &packet, MSG_NOSIGNAL) < 0 ? -errno : 0;
	close(fds[0]);
	if (rc < 0)
		return rc;
	do
		rc = poll(&wait, 1, ANSWER_MS_MAX);
	while (rc < 0 && errno == EINTR);
	if (rc <= 0)
		return rc < 0 ? -errno : -ETIMEDOUT;
	if (recv(g->socket, &answer, sizeof(answer), 0) != (ssize_t)sizeof(answer))
		return -EPIPE;
	return answer;
}

int guardian_give(struct guardian *g, int fuse_fd)
{
	return ask(g, (struct guardian_message){ .kind = GUARDIAN_GIVE }, fuse_fd);
}

int guardian_mounted(struct guardian *g, uint64_t device, bool has_epoch)
{
	return ask(g, (struct guardian_message){ .kind = GUARDIAN_MOUNTED, .device = device,
						 .has_epoch = has_epoch }, -1);
}

void guardian_renew(struct guardian *g, struct instant deadline)
{
	uint64_t before = atomic_exchange(&g->shared->deadline_ns, deadline.ns);
	uint64_t one = 1;

	/*
	 * Later is found when the timer of the earlier one fires. Earlier must be told, and so
	 * must the end of being late: the guardian would look too seldom at the new deadline.
	 */
	if (atomic_load(&g->shared->late) ||
	    (deadline.ns != 0 && (before == 0 || deadline.ns < before)))
		(void)!write(g->poke_fd, &one, sizeof(one)); /* full: it was told already */
}

int guardian_add(struct guardian *g, uint64_t nodeid)
{
	int slot = -ENOSPC;

	assert(nodeid != 0);
	pthread_mutex_lock(&g->lock);
	if (g->free_count > 0)
		slot = (int)g->free_slots[--g->free_count];
	pthread_mutex_unlock(&g->lock);
	if (slot >= 0)
		atomic_store(&g->shared->slots[slot], nodeid);
	return slot;
}

uint32_t guardian_room(struct guardian *g)
{
	uint32_t room;

	pthread_mutex_lock(&g->lock);
	room = g->free_count;
	pthread_mutex_unlock(&g->lock);
	return room;
}

uint32_t guardian_room_max(const struct guardian *g)
{
	return g->shared->slot_count;
}

void guardian_remove(struct guardian *g, int slot)
{
	assert(slot >= 0 && (uint32_t)slot < g->shared->slot_count);
	atomic_store(&g->shared->slots[slot], 0);
	pthread_mutex_lock(&g->lock);
	g->free_slots[g->free_count++] = (uint32_t)slot;
	pthread_mutex_unlock(&g->lock);
}

uint32_t guardian_fenced(const struct guardian *g)
{
	return atomic_load(&g->shared->fenced);
}

bool guardian_aborted(const struct guardian *g)
{
	return atomic_load(&g->shared->aborted);
}

bool guardian_gone(const struct guardian *g)
{
	struct pollfd wait = { g->pidfd, POLLIN, 0 };

	return poll(&wait, 1, 0) == 1;
}

/* It is not our child when another process forked it, as before this one went to the background. */
static void reap(const struct guardian *g, bool ended)
{
	siginfo_t info;

	(void)waitid(P_PIDFD, (id_t)g->pidfd, &info, WEXITED | (ended ? 0 : WNOHANG));
}

void guardian_stop(struct guardian *g)
{
	struct pollfd wait;
	int rc;

	if (!g)
		return;
	wait = (struct pollfd){ g->pidfd, POLLIN, 0 };
	(void)ask(g, (struct guardian_message){ .kind = GUARDIAN_STOP }, -1); /* or it is gone */
	do
		rc = poll(&wait, 1, ANSWER_MS_MAX);
	while (rc < 0 && errno == EINTR);
	if (rc == 0)
		(void)syscall(SYS_pidfd_send_signal, g->pidfd, SIGKILL, NULL, 0);
	reap(g, rc > 0);
	destroy(g);
}

void guardian_parts(const struct guardian *g, int ret_fds[GUARDIAN_PARTS])
{
	const int fds[GUARDIAN_PARTS] = { g->memory_fd, g->socket, g->poke_fd, g->pidfd };

	memcpy(ret_fds, fds, sizeof(fds));
}

int guardian_adopt(const int fds[GUARDIAN_PARTS], struct guardian **ret_guardian)
{
	struct guardian *g = NULL;
	struct stat st;
	int seals = fcntl(fds[0], F_GET_SEALS);
	uint64_t slot_count = 0;

	if (fstat(fds[0], &st) == 0 && st.st_size >= (off_t)sizeof(struct guardian_shared))
		slot_count = ((uint64_t)st.st_size - sizeof(struct guardian_shared)) / sizeof(uint64_t);
	if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS || slot_count > ADOPTED_SLOTS_MAX)
		close(fds[0]);
	else
		g = allocate(fds[0], (uint32_t)slot_count);
	if (!g || g->shared->slot_count != slot_count) {
		destroy(g);
		for (int i = 1; i < GUARDIAN_PARTS; i++)
			close(fds[i]);
		return -EINVAL;
	}
	g->socket = fds[1];
	g->poke_fd = fds[2];
	g->pidfd = fds[3];
	*ret_guardian = g;
	return 0;
}

void guardian_release(struct guardian *g)
{
	destroy(g);
}

int guardian_process(const struct guardian *g)
{
	return g->pidfd;
}

void guardian_abandon(struct guardian *g)
{
	(void)shutdown(g->socket, SHUT_RDWR); /* it hears a daemon that has hung up */
}
