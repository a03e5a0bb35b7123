#include "fs/origin/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <unistd.h>

/* Inode events are reported for the inode itself, entry events for their directory (FAN_REPORT_FID
   alone); a removed or added name also changes the link count of what it led to (FAN_ATTRIB). */
#define EVENTS                                                                                  \
	(FAN_MODIFY | FAN_ATTRIB | FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO |    \
	 FAN_MOVE_SELF | FAN_DELETE_SELF | FAN_ONDIR)
#define BUFFER_BYTES 65536u
#define RESCAN_BATCH 256u
#define RESCAN_MS 10000 /* between two, where nothing is reported */
#define PUSHBACK_MS 50  /* the service has enough of such recalls under way */
#define MOUNTS_PATH "/proc/self/mountinfo"

struct watched {
	struct store *store;
	int fd; /* fanotify; -1: looked at now and then */
	bool lost;
	bool hidden; /* its path leads elsewhere */
};

struct watch {
	struct service *service;
	struct watched *exports;
	uint32_t export_count;
	int stop_fd;
	int mounts_fd; /* tells when something was mounted or unmounted; -1: nothing does */
	pid_t self;
	pthread_t thread;
	struct pollfd *polls;
	char buffer[BUFFER_BYTES];
};

/* Waits so long, or until the watch is to stop: then true. */
static bool stopping(const struct watch *w, int timeout_ms)
{
	struct pollfd stop = { .fd = w->stop_fd, .events = POLLIN };

	return poll(&stop, 1, timeout_ms) != 0;
}

static void changed(struct watch *w, struct watched *export, const struct file_id *id)
{
	struct identity identity;

	store_identify(export->store, id, &identity);
	while (!service_changed(w->service, export->store, &identity))
		if (stopping(w, PUSHBACK_MS))
			return;
}

/*
 * The inode that an event is about, from the records behind its metadata; false: it names none that
 * we can have. Events follow each other at multiples of four bytes: everything is copied out.
 */
static bool event_id(const char *at, const char *end, struct file_id *ret_id)
{
	struct fanotify_event_info_header header;
	struct file_handle handle;
	const size_t handle_at = offsetof(struct fanotify_event_info_fid, handle);

	while ((size_t)(end - at) >= sizeof(header)) {
		memcpy(&header, at, sizeof(header));
		if (header.len < sizeof(header) || header.len > end - at)
			return false;
		if (header.info_type != FAN_EVENT_INFO_TYPE_FID) {
			at += header.len;
			continue;
		}
		if (header.len < handle_at + sizeof(handle))
			return false;
		memcpy(&handle, at + handle_at, sizeof(handle));
		if (handle.handle_bytes > FILE_HANDLE_BYTES_MAX ||
		    handle.handle_bytes > header.len - handle_at - sizeof(handle) ||
		    handle.handle_type < 0 || handle.handle_type > UINT8_MAX)
			return false;
		*ret_id = (struct file_id){ .type = handle.handle_type,
					    .length = (uint8_t)handle.handle_bytes };
		memcpy(ret_id->bytes, at + handle_at + sizeof(handle), handle.handle_bytes);
		return true;
	}
	return false;
}

static void drain(struct watch *w, struct watched *export)
{
	ssize_t length = read(export->fd, w->buffer, sizeof(w->buffer));
	const char *at = w->buffer, *end = at + (length > 0 ? length : 0);
	struct fanotify_event_metadata event;
	struct file_id id;

	if (length < 0 && errno != EAGAIN && errno != EINTR)
		export->lost = true;
	for (; (size_t)(end - at) >= sizeof(event); at += event.event_len) {
		memcpy(&event, at, sizeof(event));
		if (event.event_len < event.metadata_len || event.event_len > end - at ||
		    event.metadata_len < sizeof(event))
			break;
		if (event.mask & FAN_Q_OVERFLOW)
			export->lost = true;
		else if (event.pid != w->self &&
			 event_id(at + event.metadata_len, at + event.event_len, &id))
			changed(w, export, &id);
	}
}

/* Whether it was modified. What a look found no later one finds: it is recalled now. */
static bool look(struct watch *w, const struct handle *handle)
{
	bool again = false;
	int result;

	while ((result = service_look(w->service, handle, again)) == -EAGAIN) {
		again = true;
		if (stopping(w, PUSHBACK_MS))
			return false;
	}
	return result > 0;
}

/* Looks at all that hosts hold leases on. */
static void rescan(struct watch *w)
{
	struct handle handles[RESCAN_BATCH];
	uint64_t looked = 0, found = 0;
	bool lost = false;
	size_t cursor = 0;
	uint32_t count;

	for (uint32_t i = 0; i < w->export_count; i++) {
		lost |= w->exports[i].lost;
		w->exports[i].lost = false;
	}
	while ((count = service_leased(w->service, &cursor, handles, RESCAN_BATCH)) > 0) {
		for (uint32_t i = 0; i < count; i++) {
			looked++;
			found += look(w, &handles[i]);
		}
		if (stopping(w, 0))
			return;
	}
	if (lost || found)
		service_log("event=rescan looked=%llu found=%llu%s", (unsigned long long)looked,
			    (unsigned long long)found,
			    lost ? " (more was changed in an exported directory than the kernel "
				   "could report)" : "");
}

/* Something was mounted or unmounted. What hosts have is right all the same, and nobody else sees it. */
static void look_at_paths(struct watch *w)
{
	for (uint32_t i = 0; i < w->export_count; i++) {
		struct watched *export = &w->exports[i];
		bool hidden = !store_is_at_its_path(export->store);

		if (hidden && !export->hidden)
			service_log("event=export_hidden export=%s (%s was unmounted or mounted over; "
				    "hosts go on with the file system that was there, which stays in "
				    "use: mount it there again, or restart the origin)",
				    store_name(export->store), store_directory(export->store));
		else if (!hidden && export->hidden)
			service_log("event=export_back export=%s", store_name(export->store));
		export->hidden = hidden;
	}
}

static void *watch_thread(void *context)
{
	struct watch *w = context;
	struct pollfd *stop = &w->polls[w->export_count], *mounts = stop + 1;
	bool blind = false;

	for (uint32_t i = 0; i < w->export_count; i++) {
		w->polls[i] = (struct pollfd){ .fd = w->exports[i].fd, .events = POLLIN };
		blind |= w->exports[i].fd < 0;
	}
	*stop = (struct pollfd){ .fd = w->stop_fd, .events = POLLIN };
	*mounts = (struct pollfd){ .fd = w->mounts_fd, .events = POLLPRI };
	for (;;) {
		bool lost = false;
		int ready = poll(w->polls, w->export_count + 2, blind ? RESCAN_MS : -1);

		if (stop->revents)
			return NULL;
		if (ready > 0 && mounts->revents)
			look_at_paths(w);
		for (uint32_t i = 0; ready > 0 && i < w->export_count; i++) {
			if (w->polls[i].revents)
				drain(w, &w->exports[i]);
			lost |= w->exports[i].lost;
		}
		if (lost || (blind && ready == 0))
			rescan(w);
	}
}

static void watch_export(struct watched *export)
{
	int error = 0;

	export->fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_CLOEXEC | FAN_NONBLOCK,
				   O_RDONLY);
	if (export->fd < 0)
		error = errno;
	else if (fanotify_mark(export->fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS,
			       store_root_fd(export->store), NULL) < 0)
		error = errno;
	if (!error)
		return;
	if (export->fd >= 0)
		close(export->fd);
	export->fd = -1;
	service_log("event=unwatched export=%s error=\"%s\" (changes made directly in its "
		    "directory are found within %u s)", store_name(export->store),
		    strerror(error), RESCAN_MS / 1000);
}

int watch_start(struct service *service, const struct service_export *exports,
		uint32_t export_count, struct watch **ret_watch)
{
	struct watch *w = calloc(1, sizeof(*w));
	int error = 0;

	if (!w)
		return -ENOMEM;
	w->service = service;
	w->export_count = export_count;
	w->self = getpid();
	w->exports = calloc(export_count, sizeof(*w->exports));
	w->polls = calloc(export_count + 2, sizeof(*w->polls));
	w->mounts_fd = open(MOUNTS_PATH, O_RDONLY | O_CLOEXEC);
	w->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (w->stop_fd < 0)
		error = -errno;
	else if (!w->exports || !w->polls)
		error = -ENOMEM;
	for (uint32_t i = 0; !error && i < export_count; i++) {
		w->exports[i].store = exports[i].store;
		watch_export(&w->exports[i]);
	}
	if (!error)
		error = -pthread_create(&w->thread, NULL, watch_thread, w);
	if (!error) {
		*ret_watch = w;
		return 0;
	}
	w->self = 0; /* no thread */
	watch_stop(w);
	return error;
}

void watch_stop(struct watch *w)
{
	if (!w)
		return;
	if (w->self) {
		(void)eventfd_write(w->stop_fd, 1); /* it cannot overflow */
		pthread_join(w->thread, NULL);
	}
	for (uint32_t i = 0; w->exports && i < w->export_count; i++)
		if (w->exports[i].store && w->exports[i].fd >= 0)
			close(w->exports[i].fd);
	if (w->stop_fd >= 0)
		close(w->stop_fd);
	if (w->mounts_fd >= 0)
		close(w->mounts_fd);
	free(w->exports);
	free(w->polls);
	free(w);
}
