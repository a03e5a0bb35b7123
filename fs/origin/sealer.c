#include "fs/origin/sealer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/service_private.h"
#include "fs/origin/store_private.h"
#include "prefetch/rules.h"

#define LIST_NAME "sealed-directories"
#define REST_MIN_NS NS_PER_S
#define COST_SHARE 10	  /* a walk may take this part of the time */
#define PUSHBACK_MS 50	  /* the service has enough of them under way */
#define PATH_BYTES_MAX 4096

struct sealer {
	struct service *service;
	int state_fd;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop, look;
	struct handle *directories; /* SEALER_DIRECTORIES_MAX */
	uint32_t count;
	uint64_t told; /* of the service's policy_sealed; the thread's */
};

/* ---- the list ---- */

static bool known(const struct sealer *sealer, const struct handle *directory)
{
	for (uint32_t i = 0; i < sealer->count; i++)
		if (handle_equal(&sealer->directories[i], directory))
			return true;
	return false;
}

/* A line for each handle. With the lock held. */
static int list_write(const struct sealer *sealer)
{
	int fd = openat(sealer->state_fd, LIST_NAME ".new",
			O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
	int error = file ? 0 : -errno;

	if (!file) {
		if (fd >= 0)
			close(fd);
		return error;
	}
	for (uint32_t i = 0; i < sealer->count; i++) {
		const struct handle *handle = &sealer->directories[i];

		for (uint8_t j = 0; j < handle->length; j++)
			fprintf(file, "%02x", handle->bytes[j]);
		fputc('\n', file);
	}
	if (fflush(file) != 0 || ferror(file) || fsync(fd) < 0)
		error = errno ? -errno : -EIO;
	fclose(file);
	if (!error && renameat(sealer->state_fd, LIST_NAME ".new", sealer->state_fd, LIST_NAME) < 0)
		error = -errno;
	if (!error && fsync(sealer->state_fd) < 0)
		error = -errno;
	return error;
}

static bool parse_handle(const char *line, struct handle *ret_handle)
{
	struct handle handle = { .length = 0 };
	unsigned byte;

	while (handle.length < sizeof(handle.bytes) && sscanf(line, "%2x", &byte) == 1 &&
	       line[0] > ' ' && line[1] > ' ') {
		handle.bytes[handle.length++] = (uint8_t)byte;
		line += 2;
	}
	*ret_handle = handle;
	return handle.length > 0 && (*line == '\n' || *line == '\0');
}

static int list_read(struct sealer *sealer)
{
	int fd = openat(sealer->state_fd, LIST_NAME, O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	char line[2 * HANDLE_BYTES_MAX + 2];
	struct handle handle;

	if (!file)
		return fd < 0 && errno == ENOENT ? 0 : -errno;
	while (sealer->count < SEALER_DIRECTORIES_MAX && fgets(line, sizeof(line), file))
		if (parse_handle(line, &handle) && !known(sealer, &handle))
			sealer->directories[sealer->count++] = handle;
	fclose(file);
	return 0;
}

static int compile(struct slice text, struct rules **ret_rules)
{
	struct rules_error error;

	return rules_compile(&store_allocator, text, ret_rules, &error);
}

void sealer_hear(struct sealer *sealer, const struct handle *directory, struct slice text, bool is_set)
{
	struct rules *rules;
	int error = 0;
	bool sets;

	if (compile(text, &rules) < 0)
		return;
	sets = rules_sets(rules, RULES_SEAL);
	rules_destroy(rules);
	if (!sets)
		return;
	pthread_mutex_lock(&sealer->lock);
	if (!known(sealer, directory) && sealer->count == SEALER_DIRECTORIES_MAX) {
		error = -ENOSPC;
	} else if (!known(sealer, directory)) {
		sealer->directories[sealer->count++] = *directory;
		error = list_write(sealer);
	}
	if (is_set) {
		sealer->look = true;
		pthread_cond_signal(&sealer->wake);
	}
	pthread_mutex_unlock(&sealer->lock);
	if (error)
		service_log("event=seal_policy_unknown error=\"%s\" (what a policy says of seals in one more "
			    "directory %s)", strerror(-error), error == -ENOSPC ? "is not followed" :
			    "is forgotten when the origin restarts: set it again");
}

/* Nothing seals below it any more. */
static void forget(struct sealer *sealer, const struct handle *directory)
{
	pthread_mutex_lock(&sealer->lock);
	for (uint32_t i = 0; i < sealer->count; i++) {
		if (handle_equal(&sealer->directories[i], directory)) {
			sealer->directories[i] = sealer->directories[--sealer->count];
			/* It is looked at once more after a restart, if that fails. */
			(void)list_write(sealer);
			break;
		}
	}
	pthread_mutex_unlock(&sealer->lock);
}

static bool stopping(struct sealer *sealer)
{
	bool stop;

	pthread_mutex_lock(&sealer->lock);
	stop = sealer->stop;
	pthread_mutex_unlock(&sealer->lock);
	return stop;
}

/* ---- a walk ---- */

/* From the export's root down to the directory that is looked at. */
struct layer {
	struct rules *rules; /* NULL: it has none */
	size_t at;	     /* in the path: where what is below it begins */
};

struct walk {
	struct sealer *sealer;
	struct store *store;
	dev_t device;
	struct layer layers[SEALER_DEPTH_MAX];
	uint32_t depth;
	char path[PATH_BYTES_MAX]; /* from the export's root */
	size_t length;
	uint64_t least_ms; /* the shortest time that a policy names */
	int64_t now_ns;	   /* CLOCK_REALTIME, as the store's times are */
};

/* The policy of the directory that `fd` is open on. Others than those on the list say nothing of seals:
   they were not set by root through the origin. */
static struct rules *policy_of(struct walk *w, int fd)
{
	char path[PROC_PATH_BYTES], text[RULES_TEXT_BYTES_MAX];
	struct identity identity;
	struct rules *rules;
	struct file_id id;
	ssize_t length;
	int mount_id;
	bool listed;

	if (file_id_of(fd, ".", &id, &mount_id) < 0)
		return NULL;
	store_identify(w->store, &id, &identity);
	pthread_mutex_lock(&w->sealer->lock);
	listed = known(w->sealer, &identity.handle);
	pthread_mutex_unlock(&w->sealer->lock);
	if (!listed)
		return NULL;
	store_proc_path(fd, path);
	length = getxattr(path, POLICY_XATTR, text, sizeof(text));
	if (length <= 0 || compile((struct slice){ (const uint8_t *)text, (size_t)length }, &rules) < 0)
		return NULL;
	if (rules_sets(rules, RULES_SEAL)) {
		uint64_t least = rules_least(rules, RULES_SEAL);

		w->least_ms = least < w->least_ms ? least : w->least_ms;
		return rules;
	}
	rules_destroy(rules);
	return NULL;
}

/* Appends a component to the path. False: too long, or too deep. */
static bool enter(struct walk *w, const char *name, int fd)
{
	size_t bytes = strlen(name);
	bool slash = w->length > 0;
	struct layer *layer;

	if (w->depth == SEALER_DEPTH_MAX || w->length + slash + bytes + 1 >= sizeof(w->path))
		return false;
	if (slash)
		w->path[w->length++] = '/';
	memcpy(w->path + w->length, name, bytes + 1);
	w->length += bytes;
	layer = &w->layers[w->depth++];
	*layer = (struct layer){ policy_of(w, fd), w->length };
	return true;
}

static void leave(struct walk *w, size_t length)
{
	rules_destroy(w->layers[--w->depth].rules);
	w->length = length;
	w->path[length] = '\0';
}

/* For how long it has to be quiet; RULES_ALL: it is not sealed. */
static uint64_t quiet_ms(const struct walk *w)
{
	struct rules_attributes a;

	rules_attributes_init(&a);
	for (uint32_t i = 0; i < w->depth; i++) {
		const struct layer *layer = &w->layers[i];
		size_t at = layer->at + (layer->at > 0);
		struct slice below = { (const uint8_t *)w->path + at, w->length - at };

		if (layer->rules)
			rules_match(layer->rules, below, false, (uint8_t)i, &a);
	}
	return a.values[RULES_SEAL];
}

/* A file in the directory `fd`; its name ends the path. */
static void file(struct walk *w, int fd, const char *name, const struct stat *st)
{
	uint64_t ms;
	char path[PROC_PATH_BYTES + NAME_BYTES_MAX + 2];
	struct identity identity;
	struct file_id id;
	int mount_id, error;

	if (!service_is_quiet(st, w->now_ns, w->least_ms))
		return;
	ms = quiet_ms(w);
	if (ms == RULES_ALL || !service_is_quiet(st, w->now_ns, ms) ||
	    file_id_of(fd, name, &id, &mount_id) < 0)
		return;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", fd, name);
	if (store_seal_marks(path, false, &id) & MARK_SEALED)
		return;
	store_identify(w->store, &id, &identity);
	while ((error = service_seal_quiet(w->sealer->service, w->store, &identity.handle, ms)) ==
	       -EAGAIN) {
		const struct timespec pause = { 0, PUSHBACK_MS * (long)NS_PER_MS };

		if (stopping(w->sealer))
			return;
		nanosleep(&pause, NULL);
	}
	if (error)
		atomic_store(&w->sealer->service->policy_seal_error, error);
}

/* What is below the directory that was entered last. Takes `fd` over. */
static void directory(struct walk *w, int fd)
{
	DIR *stream = fdopendir(fd);
	struct dirent *entry;

	if (!stream) {
		close(fd);
		return;
	}
	while (!stopping(w->sealer) && (entry = readdir(stream))) {
		const char *name = entry->d_name;
		size_t length = w->length;
		struct stat st;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    (length == 0 && strcmp(name, STORE_PRIVATE_NAME) == 0) ||
		    (entry->d_type != DT_UNKNOWN && entry->d_type != DT_DIR &&
		     entry->d_type != DT_REG) ||
		    fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != w->device)
			continue;
		if (S_ISDIR(st.st_mode)) {
			int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (below < 0)
				continue;
			if (!enter(w, name, below)) {
				close(below);
				continue;
			}
			directory(w, below);
			leave(w, length);
		} else if (S_ISREG(st.st_mode) &&
			   length + strlen(name) + 2 < sizeof(w->path)) {
			w->length += (size_t)sprintf(w->path + length, "%s%s", length ? "/" : "", name);
			file(w, fd, name, &st);
			w->length = length;
			w->path[length] = '\0';
		}
	}
	closedir(stream);
}

/* Where `fd` is, from the export's root on: false: nowhere in it, or its path is too long. */
static bool path_of(const struct store *store, int fd, char ret_path[PATH_BYTES_MAX])
{
	char link[PROC_PATH_BYTES], root[PATH_BYTES_MAX];
	ssize_t root_length, length;

	store_proc_path(store_root_fd(store), link);
	root_length = readlink(link, root, sizeof(root));
	store_proc_path(fd, link);
	length = readlink(link, ret_path, PATH_BYTES_MAX);
	if (root_length <= 0 || length < root_length || length == PATH_BYTES_MAX ||
	    memcmp(root, ret_path, (size_t)root_length) != 0)
		return false;
	ret_path[length] = '\0';
	if (root_length == 1) /* the export is "/" */
		root_length = 0;
	if (length > root_length && ret_path[root_length] != '/')
		return false;
	while (root_length < length && ret_path[root_length] == '/')
		root_length++;
	memmove(ret_path, ret_path + root_length, (size_t)(length - root_length) + 1);
	return true;
}

/*
 * Goes down to the directory from the root, by its path, for the policies on the way; it may be elsewhere
 * by now, which the last look tells. The descriptor, or -1.
 */
static int go_down(struct walk *w, const struct inode *target)
{
	char path[PATH_BYTES_MAX], *rest = path, *name;
	struct stat there, expected;
	int fd, next;

	if (!path_of(w->store, target->fd, path) || fstat(target->fd, &expected) < 0)
		return -1;
	w->device = expected.st_dev;
	fd = openat(store_root_fd(w->store), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	w->layers[w->depth++] = (struct layer){ policy_of(w, fd), 0 };
	while ((name = strsep(&rest, "/"))) {
		if (!*name)
			continue;
		next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(fd);
		fd = next;
		if (fd < 0)
			return -1;
		if (!enter(w, name, fd)) {
			close(fd);
			return -1;
		}
	}
	if (fstat(fd, &there) == 0 && there.st_ino == expected.st_ino &&
	    there.st_dev == expected.st_dev)
		return fd;
	close(fd);
	return -1;
}

/* False: it has no such policy any more. */
static bool walk_from(struct walk *w, const struct handle *handle)
{
	const struct service *service = w->sealer->service;
	struct inode *inode = NULL;
	bool sets = true;
	int error = -EBADMSG, fd;

	for (uint32_t i = 0; i < service->export_count && error == -EBADMSG; i++) {
		w->store = service->exports[i].store;
		error = store_get(w->store, handle, &inode);
	}
	if (error)
		return error != -ESTALE && error != -EBADMSG;
	fd = store_read_only(w->store) ? -1 : go_down(w, inode);
	if (fd >= 0) {
		sets = w->layers[w->depth - 1].rules != NULL;
		if (sets)
			directory(w, fd);
		else
			close(fd);
	}
	while (w->depth > 0)
		leave(w, 0);
	store_put(w->store, inode);
	return sets;
}

/* What came of the last walk. */
static void tell(struct sealer *sealer)
{
	struct service *s = sealer->service;
	uint64_t sealed = atomic_load(&s->policy_sealed);
	int error = atomic_exchange(&s->policy_seal_error, 0);

	if (sealed != sealer->told)
		service_log("event=sealed_by_policy files=%" PRIu64, sealed - sealer->told);
	if (error)
		service_log("event=seal_by_policy_failed error=\"%s\"%s", strerror(-error),
			    error == -EOPNOTSUPP ? " (the exported file system has no trusted.* "
						   "attributes, so nothing in it can be sealed)" : "");
	sealer->told = sealed;
}

/* Everything once. When to look again. */
static struct duration walk_all(struct sealer *sealer)
{
	struct walk *w = calloc(1, sizeof(*w));
	struct instant began = service_now();
	uint64_t took, rest = SEALER_REST_MAX.ns;
	struct timespec now;
	struct handle handle;

	if (!w)
		return SEALER_REST_MAX;
	clock_gettime(CLOCK_REALTIME, &now);
	w->sealer = sealer;
	w->now_ns = (int64_t)now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
	w->least_ms = RULES_ALL;
	for (uint32_t i = 0; !stopping(sealer); i++) {
		bool more;

		pthread_mutex_lock(&sealer->lock);
		more = i < sealer->count;
		if (more)
			handle = sealer->directories[i];
		pthread_mutex_unlock(&sealer->lock);
		if (!more)
			break;
		if (!walk_from(w, &handle)) {
			forget(sealer, &handle);
			i--;
		}
	}
	if (w->least_ms < rest / NS_PER_MS)
		rest = w->least_ms * NS_PER_MS;
	free(w);
	took = instant_until(began, service_now()).ns;
	if (rest < COST_SHARE * took)
		rest = COST_SHARE * took;
	return (struct duration){ rest < REST_MIN_NS ? REST_MIN_NS : rest };
}

/* ---- its life ---- */

static void *run(void *context)
{
	struct sealer *sealer = context;

	credentials_reset();
	pthread_mutex_lock(&sealer->lock);
	while (!sealer->stop) {
		struct duration rest;
		struct timespec until;
		int r = 0;

		if (sealer->count == 0) {
			pthread_cond_wait(&sealer->wake, &sealer->lock);
			continue;
		}
		sealer->look = false;
		pthread_mutex_unlock(&sealer->lock);
		tell(sealer);
		rest = walk_all(sealer);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += (time_t)(rest.ns / NS_PER_S);
		until.tv_nsec += (long)(rest.ns % NS_PER_S);
		if (until.tv_nsec >= (long)NS_PER_S) {
			until.tv_nsec -= (long)NS_PER_S;
			until.tv_sec++;
		}
		pthread_mutex_lock(&sealer->lock);
		while (!sealer->stop && !sealer->look && r == 0)
			r = pthread_cond_timedwait(&sealer->wake, &sealer->lock, &until);
	}
	pthread_mutex_unlock(&sealer->lock);
	return NULL;
}

int sealer_start(struct service *service, int state_fd, struct sealer **ret_sealer)
{
	struct sealer *sealer = calloc(1, sizeof(*sealer));
	pthread_condattr_t monotonic;
	int error;

	if (!sealer)
		return -ENOMEM;
	sealer->directories = calloc(SEALER_DIRECTORIES_MAX, sizeof(*sealer->directories));
	if (!sealer->directories) {
		free(sealer);
		return -ENOMEM;
	}
	sealer->service = service;
	sealer->state_fd = state_fd;
	error = list_read(sealer);
	pthread_mutex_init(&sealer->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&sealer->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (!error)
		error = -pthread_create(&sealer->thread, NULL, run, sealer);
	if (!error) {
		service_set_sealer(service, sealer);
		*ret_sealer = sealer;
		return 0;
	}
	pthread_cond_destroy(&sealer->wake);
	pthread_mutex_destroy(&sealer->lock);
	free(sealer->directories);
	free(sealer);
	return error;
}

void sealer_stop(struct sealer *sealer)
{
	if (!sealer)
		return;
	pthread_mutex_lock(&sealer->lock);
	sealer->stop = true;
	pthread_cond_signal(&sealer->wake);
	pthread_mutex_unlock(&sealer->lock);
	pthread_join(sealer->thread, NULL);
	pthread_cond_destroy(&sealer->wake);
	pthread_mutex_destroy(&sealer->lock);
	free(sealer->directories);
	free(sealer);
}
