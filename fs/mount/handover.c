#include "fs/mount/handover.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lease/base/bytes.h"

#define MAGIC UINT32_C(0x32484d4c) /* "LMH2" */
#define BACKLOG 64

/* ---- options ---- */

static void put_text(struct writer *w, const char *text)
{
	size_t length = text ? strlen(text) : 0;

	writer_u32(w, (uint32_t)length);
	writer_bytes(w, text ? text : "", length);
}

static void put_number(struct writer *w, uint64_t number)
{
	writer_u64(w, number);
}

int handover_options_encode(const struct mount_options *options,
			    uint8_t buffer[HANDOVER_OPTIONS_MAX])
{
	struct writer w = writer_of(buffer, HANDOVER_OPTIONS_MAX);

	put_text(&w, LEASEHOLD_VERSION);
#define PUT_TEXT put_text
#define PUT_COUNT put_number
#define PUT_BYTES put_number
#define PUT_MILLISECONDS put_number
#define PUT_FLAG put_number
#define PUT_OPTION(KIND, field, flag, metavar, fallback, text)                                  \
	put_text(&w, flag);                                                                     \
	PUT_##KIND(&w, options->field);
	MOUNT_OPTIONS(PUT_OPTION)
	put_text(&w, options->url);
	put_text(&w, options->mountpoint);
	put_text(&w, options->policy_text);
	return w.failed ? -E2BIG : (int)w.at;
}

/* Texts are copied one behind the other; there is room, since each is shorter here than encoded. */
struct texts {
	struct reader r;
	char *at;
};

static const char *take_text(struct texts *t)
{
	struct slice bytes = reader_bytes(&t->r, reader_u32(&t->r));
	char *text = t->at;

	if (bytes.length)
		memcpy(text, bytes.data, bytes.length);
	text[bytes.length] = '\0';
	t->at += bytes.length + 1;
	return text;
}

static uint64_t take_number(struct texts *t)
{
	return reader_u64(&t->r);
}

static bool take_word(struct texts *t, const char *word)
{
	return strcmp(take_text(t), word) == 0;
}

int handover_options_decode(const uint8_t *bytes, size_t length, struct mount_options *ret_options,
			    char **ret_texts)
{
	char *memory = malloc(length + 1);
	struct texts t = { reader_of(bytes, length), memory };
	struct mount_options options = { 0 };
	bool same;

	if (!memory)
		return -ENOMEM;
	same = take_word(&t, LEASEHOLD_VERSION);
#define TAKE_TEXT() take_text(&t)
#define TAKE_COUNT() (uint32_t)take_number(&t)
#define TAKE_BYTES() take_number(&t)
#define TAKE_MILLISECONDS() take_number(&t)
#define TAKE_FLAG() (take_number(&t) != 0)
#define TAKE_OPTION(KIND, field, flag, metavar, fallback, text)                                 \
	same = same && !t.r.failed && take_word(&t, flag);                                      \
	if (same)                                                                               \
		options.field = TAKE_##KIND();
	MOUNT_OPTIONS(TAKE_OPTION)
	if (same) {
		options.url = take_text(&t);
		options.mountpoint = take_text(&t);
		options.policy_text = take_text(&t);
	}
	if (!same || !reader_done(&t.r)) {
		free(memory);
		return -EPROTO;
	}
	*ret_options = options;
	*ret_texts = memory;
	return 0;
}

/* ---- messages ---- */

int handover_send(int socket, const struct handover *message, const uint8_t *options,
		  size_t options_length, const int fds[HANDOVER_FDS])
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(HANDOVER_FDS * sizeof(int))];
	} control = { 0 };
	struct handover copy = *message;
	struct iovec pieces[2] = { { &copy, sizeof(copy) },
				   { (void *)(uintptr_t)options, options_length } };
	struct msghdr packet = { .msg_iov = pieces, .msg_iovlen = options_length ? 2 : 1 };
	unsigned count = 0;

	copy.magic = MAGIC;
	while (fds && count < HANDOVER_FDS && fds[count] >= 0)
		count++;
	if (count > 0) {
		packet.msg_control = control.bytes;
		packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}
	return sendmsg(socket, &packet, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int handover_say(int socket, enum handover_kind kind, int error)
{
	const struct handover message = { .kind = kind, .error = error };

	return handover_send(socket, &message, NULL, 0, NULL);
}

/* A packet into the pieces; its length, or -errno. */
static ssize_t receive(int socket, struct msghdr *packet, int timeout_ms)
{
	struct pollfd wait = { socket, POLLIN, 0 };
	ssize_t length;
	int r;

	do
		r = poll(&wait, 1, timeout_ms);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	length = recvmsg(socket, packet, MSG_CMSG_CLOEXEC);
	if (length == 0 || (length < 0 && errno == ECONNRESET))
		return -EPIPE;
	return length < 0 ? -errno : length;
}

int handover_receive(int socket, enum handover_kind kind, int timeout_ms, struct handover *ret_message)
{
	struct handover message;
	struct iovec piece = { &message, sizeof(message) };
	struct msghdr packet = { .msg_iov = &piece, .msg_iovlen = 1 };
	ssize_t length = receive(socket, &packet, timeout_ms);

	if (length < 0)
		return (int)length;
	if (length != (ssize_t)sizeof(message) || message.magic != MAGIC ||
	    (kind != 0 && message.kind != (uint32_t)kind && message.kind != HANDOVER_FAILED))
		return -EPROTO;
	message.text[sizeof(message.text) - 1] = '\0';
	*ret_message = message;
	return 0;
}

static void take_fds(struct msghdr *packet, int ret_fds[HANDOVER_FDS])
{
	struct cmsghdr *header = CMSG_FIRSTHDR(packet);

	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
}

int handover_receive_request(int socket, struct mount_options *ret_options, char **ret_texts,
			     int ret_fds[HANDOVER_FDS])
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(HANDOVER_FDS * sizeof(int))];
	} control;
	struct handover message = { 0 };
	uint8_t *options = malloc(HANDOVER_OPTIONS_MAX);
	struct iovec pieces[2] = { { &message, sizeof(message) }, { options, HANDOVER_OPTIONS_MAX } };
	struct msghdr packet = { .msg_iov = pieces, .msg_iovlen = 2, .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes) };
	ssize_t length;
	int r;

	for (unsigned i = 0; i < HANDOVER_FDS; i++)
		ret_fds[i] = -1;
	if (!options)
		return -ENOMEM;
	length = receive(socket, &packet, HANDOVER_ANSWER_S * 1000);
	r = length < 0 ? (int)length : 0;
	if (r == 0) {
		take_fds(&packet, ret_fds);
		if (length < (ssize_t)sizeof(message) || message.magic != MAGIC ||
		    message.kind != HANDOVER_REQUEST || (packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
		    ret_fds[GUARDIAN_PARTS] < 0)
			r = -EPROTO;
	}
	if (r == 0)
		r = handover_options_decode(options, (size_t)length - sizeof(message), ret_options,
					    ret_texts);
	free(options);
	return r;
}

/* ---- the socket ---- */

/* The path of a directory may be longer than an address takes: it goes by a descriptor. */
static int open_address(const char *directory, struct sockaddr_un *ret_address)
{
	int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret_address->sun_path, sizeof(ret_address->sun_path),
		 "/proc/self/fd/%d/" HANDOVER_SOCKET, fd);
	return fd;
}

/* Neither side hangs in a send, or in a connect, when the other does nothing. */
static int make_socket(void)
{
	const struct timeval patience = { .tv_sec = HANDOVER_ANSWER_S };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return fd < 0 ? -errno : fd;
}

int handover_listen(const char *cache_directory)
{
	struct sockaddr_un address;
	int directory = open_address(cache_directory, &address), fd, r = 0;

	if (directory < 0)
		return directory;
	fd = make_socket();
	if (fd < 0) {
		close(directory);
		return fd;
	}
	(void)unlinkat(directory, HANDOVER_SOCKET, 0);
	/* Nobody can connect before it listens, and by then its mode is right. */
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    fchmodat(directory, HANDOVER_SOCKET, 0600, 0) < 0 || listen(fd, BACKLOG) < 0)
		r = -errno;
	close(directory);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

void handover_unlisten(const char *cache_directory, int socket)
{
	int directory = open(cache_directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

	close(socket);
	if (directory < 0)
		return;
	(void)unlinkat(directory, HANDOVER_SOCKET, 0);
	close(directory);
}

bool handover_trusts(int socket, int *ret_process)
{
	struct ucred other;
	socklen_t length = sizeof(other);

	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &other, &length) < 0)
		return false;
	if (ret_process)
		*ret_process = other.pid;
	return other.uid == 0 || other.uid == geteuid();
}

int handover_connect(const char *cache_directory, int *ret_process)
{
	struct sockaddr_un address;
	int directory = open_address(cache_directory, &address), fd, r = 0;

	if (directory < 0)
		return directory;
	fd = make_socket();
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = errno == ECONNREFUSED ? -ENOENT : errno == EAGAIN ? -EBUSY : -errno;
	close(directory);
	if (fd >= 0 && r == 0 && !handover_trusts(fd, ret_process))
		r = -EPERM;
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}
