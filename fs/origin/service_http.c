#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/service_private.h"
#include "transport/tls.h"

#define FILE_BYTES_MAX (64u << 20) /* of one plain answer; larger files by Range */
#define LISTING_BYTES_MAX (4u << 20)
#define PATH_BYTES_MAX 4096u
#define JOIN_BYTES_MAX (64u << 10)

static void free_body(void *context, void *data)
{
	free(data);
}

static void answer_body(struct task *t, int http_status, const char *type, const char *header,
			void *data, size_t length)
{
	struct server_bulk body = { data, length, free_body, NULL };
	struct server_request *request = t->request;

	t->request = NULL;
	server_respond_plain(request, http_status, type, header, body);
	task_destroy(t);
}

static void answer_line(struct task *t, int http_status, const char *line)
{
	char *text = NULL;
	int length = asprintf(&text, "%s\n", line);

	answer_body(t, http_status, "text/plain; charset=utf-8", NULL, length < 0 ? NULL : text,
		    length < 0 ? 0 : (size_t)length);
}

/* ---- GET /status ---- */

static json_t *exports_json(struct service *s)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < s->export_count; i++) {
		struct store *store = s->exports[i].store;
		struct inodes_counters inodes;

		uint64_t read_ahead, written_out;

		inodes_counters(store_inodes(store), &inodes);
		store_flow_counters(store, &read_ahead, &written_out);
		json_array_append_new(list,
			json_pack("{s:s, s:b, s:I, s:I, s:{s:I, s:I, s:I, s:I}}",
				  "name", store_name(store), "read_only", store_read_only(store),
				  "read_ahead_bytes", (json_int_t)read_ahead,
				  "written_out_bytes", (json_int_t)written_out,
				  "inodes", "count", (json_int_t)inodes.count,
				  "hits", (json_int_t)inodes.hits,
				  "misses", (json_int_t)inodes.misses,
				  "evicted", (json_int_t)inodes.evicted));
	}
	return list;
}

/* Under the service's lock. */
static json_t *sessions_json(struct service *s)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < SESSION_BUCKETS; i++)
		for (struct session *session = s->sessions[i]; session; session = session->next)
			if (session->alive)
				json_array_append_new(list, json_pack(
					"{s:s, s:s, s:b}", "host", session->peer,
					"export", store_name(session->store),
					"stream", session->stream != NULL));
	return list;
}

#define COUNTER(object, counters, name) \
	json_object_set_new(object, #name, json_integer((json_int_t)(counters).name))

static json_t *authority_json(const struct authority_counters *c)
{
	json_t *object = json_object();

	COUNTER(object, *c, sessions);
	COUNTER(object, *c, leases);
	COUNTER(object, *c, opens);
	COUNTER(object, *c, operations);
	COUNTER(object, *c, grants);
	COUNTER(object, *c, grants_refused);
	COUNTER(object, *c, recalls);
	COUNTER(object, *c, recalls_expired);
	COUNTER(object, *c, sessions_expired);
	COUNTER(object, *c, operations_run);
	COUNTER(object, *c, operations_refused);
	COUNTER(object, *c, replays);
	COUNTER(object, *c, pushbacks);
	return object;
}

static json_t *locks_json(const struct lock_counters *c)
{
	json_t *object = json_object();

	COUNTER(object, *c, held);
	COUNTER(object, *c, waiting);
	COUNTER(object, *c, offered);
	COUNTER(object, *c, deadlocks);
	COUNTER(object, *c, refused);
	return object;
}

static json_t *server_json(const struct server_counters *c)
{
	json_t *object = json_object();

	COUNTER(object, *c, connections);
	COUNTER(object, *c, requests);
	COUNTER(object, *c, responses);
	COUNTER(object, *c, bytes_in);
	COUNTER(object, *c, bytes_out);
	COUNTER(object, *c, refused);
	COUNTER(object, *c, cancelled);
	COUNTER(object, *c, streams);
	COUNTER(object, *c, malformed);
	COUNTER(object, *c, tls_failures);
	COUNTER(object, *c, compressed_in);
	COUNTER(object, *c, compressed_out);
	return object;
}

static json_t *store_json(struct service *s)
{
	struct changes_counters c;
	json_t *object = json_object();

	changes_counters(s->changes, &c);
	COUNTER(object, c, outside);
	COUNTER(object, c, evicted);
	COUNTER(object, c, unfinished);
	json_object_set_new(object, "retries", json_integer((json_int_t)atomic_load(&s->retries)));
	json_object_set_new(object, "replays", json_integer((json_int_t)atomic_load(&s->replays)));
	json_object_set_new(object, "pushbacks",
			    json_integer((json_int_t)atomic_load(&s->pushbacks)));
	return object;
}

static void answer_status(struct task *t)
{
	struct service *s = t->service;
	struct authority_counters authority;
	struct lock_counters locks;
	struct server_counters counters;
	struct instant now = service_now();
	json_t *object = json_object(), *sessions;
	struct server *server;
	struct duration grace, uptime = instant_until(s->started, now);
	char *text;

	pthread_mutex_lock(&s->lock);
	authority_counters(s->authority, &authority);
	authority_lock_counters(s->authority, &locks);
	grace = authority_grace(s->authority, now);
	sessions = sessions_json(s);
	server = s->server;
	pthread_mutex_unlock(&s->lock);
	json_object_set_new(object, "version", json_string(LEASEHOLD_VERSION));
	json_object_set_new(object, "uptime_ms",
			    json_integer((json_int_t)(uptime.ns / NS_PER_MS)));
	json_object_set_new(object, "epoch", json_integer((json_int_t)s->config.epoch));
	json_object_set_new(object, "grace_ms", json_integer((json_int_t)(grace.ns / NS_PER_MS)));
	json_object_set_new(object, "exports", exports_json(s));
	json_object_set_new(object, "sessions", sessions);
	json_object_set_new(object, "authority", authority_json(&authority));
	json_object_set_new(object, "locks", locks_json(&locks));
	json_object_set_new(object, "store", store_json(s));
	if (server) {
		server_counters(server, &counters);
		json_object_set_new(object, "server", server_json(&counters));
	}
	text = json_dumps(object, JSON_INDENT(2));
	json_decref(object);
	if (text)
		answer_body(t, 200, "application/json", NULL, text, strlen(text));
	else
		answer_line(t, 503, "out of memory");
}

/* ---- GET /files/EXPORT/path ---- */

static int unhex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes %XX and ends at the query. False: malformed, or with a zero byte. */
static bool decode_path(const char *from, char *to, size_t size)
{
	size_t at = 0;

	while (*from && *from != '?') {
		int c = (unsigned char)*from++;

		if (c == '%') {
			int high = unhex(from[0]), low = high < 0 ? -1 : unhex(from[1]);

			if (low < 0 || (high == 0 && low == 0))
				return false;
			c = high << 4 | low;
			from += 2;
		}
		if (at + 1 >= size)
			return false;
		to[at++] = (char)c;
	}
	to[at] = 0;
	return true;
}

struct byte_range {
	uint64_t from, to; /* to: behind the last */
	bool asked;
};

/* One range; what is none or several is ignored, as RFC 9110 allows. False: not satisfiable. */
static bool parse_range(const char *text, uint64_t size, struct byte_range *ret_range)
{
	struct byte_range range = { 0, size, false };
	char *end;

	*ret_range = range;
	if (!text || strncmp(text, "bytes=", 6) != 0 || strchr(text, ','))
		return true;
	text += 6;
	range.asked = true;
	if (*text == '-') {
		uint64_t tail = strtoull(text + 1, &end, 10);

		if (end == text + 1 || *end)
			return true;
		if (tail == 0)
			return false;
		range.from = tail < size ? size - tail : 0;
	} else {
		range.from = strtoull(text, &end, 10);
		if (end == text || *end != '-')
			return true;
		text = end + 1;
		if (*text) {
			uint64_t last = strtoull(text, &end, 10);

			if (*end || last < range.from)
				return true;
			if (last < size)
				range.to = last + 1;
		}
	}
	if (range.from >= size)
		return false;
	*ret_range = range;
	return true;
}

/* Reads the range, and what the size was then. 0 with memory to be freed, or -errno. */
static int read_range(int fd, const struct byte_range *range, char **ret_data, size_t *ret_length)
{
	uint64_t wanted = range->to - range->from;
	size_t length = wanted > FILE_BYTES_MAX ? FILE_BYTES_MAX : (size_t)wanted, done = 0;
	char *data = (char *)malloc(length + 1);

	if (!data)
		return -ENOMEM;
	while (done < length) {
		ssize_t got = pread(fd, data + done, length - done, (off_t)(range->from + done));
		int error = errno;

		if (got < 0 && error == EINTR)
			continue;
		if (got < 0) {
			free(data);
			return -error;
		}
		if (got == 0)
			break;
		done += (size_t)got;
	}
	*ret_data = data;
	*ret_length = done;
	return 0;
}

static void answer_file(struct task *t, struct store *store, int fd)
{
	struct byte_range range = { 0, 0, false };
	struct inode *inode;
	struct stat st;
	char header[96], *data = NULL;
	bool good = true;
	size_t length = 0;
	int error = store_get_fd(store, fd, &inode);

	if (error) {
		answer_line(t, 404, "no such file");
		return;
	}
	/* I4: size and bytes of one moment. */
	store_lock_shared(store, inode);
	if (fstat(fd, &st) < 0)
		error = -errno;
	else
		good = parse_range(t->view.range, (uint64_t)st.st_size, &range);
	if (!error && good && !range.asked && range.to > FILE_BYTES_MAX)
		error = -EFBIG;
	if (!error && good)
		error = read_range(fd, &range, &data, &length);
	store_unlock_shared(store, inode);
	store_put(store, inode);
	if (!good) {
		answer_line(t, 416, "the file ends before that range");
	} else if (error) {
		answer_line(t, error == -EFBIG ? 413 : 500,
			    error == -EFBIG ? "the file is large; ask for ranges of up to 64 MiB" :
					      "the store failed");
	} else {
		(void)snprintf(header, sizeof(header), "content-range: bytes %llu-%llu/%llu",
			       (unsigned long long)range.from,
			       (unsigned long long)(range.from + length - (length > 0)),
			       (unsigned long long)st.st_size);
		answer_body(t, range.asked ? 206 : 200, "application/octet-stream",
			    range.asked ? header : "accept-ranges: bytes", data, length);
	}
}

static void answer_directory(struct task *t, int fd, bool is_root)
{
	char *text = NULL;
	size_t length = 0;
	struct dirent *entry;
	FILE *out = open_memstream(&text, &length);
	DIR *directory = fdopendir(dup(fd));

	while (out && directory && (entry = readdir(directory)) &&
	       ftello(out) < (off_t)LISTING_BYTES_MAX) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    (is_root && strcmp(entry->d_name, STORE_PRIVATE_NAME) == 0))
			continue;
		fprintf(out, "%s%s\n", entry->d_name, entry->d_type == DT_DIR ? "/" : "");
	}
	if (directory)
		closedir(directory);
	if (out && fclose(out) == 0)
		answer_body(t, 200, "text/plain; charset=utf-8", NULL, text, length);
	else
		answer_line(t, 503, "out of memory");
}

static const struct service_export *export_of(struct service *s, const char *path,
					      const char **ret_rest)
{
	size_t length = strcspn(path, "/");

	for (uint32_t i = 0; i < s->export_count; i++) {
		const char *name = store_name(s->exports[i].store);

		if (strlen(name) == length && memcmp(name, path, length) == 0) {
			*ret_rest = path + length;
			return &s->exports[i];
		}
	}
	return NULL;
}

static void answer_path(struct task *t, const char *address)
{
	struct credential root = { .uid = 0 }, caller;
	const struct service_export *export;
	char path[PATH_BYTES_MAX];
	const char *rest = NULL;
	struct stat st;
	int fd;

	if (!decode_path(address, path, sizeof(path))) {
		answer_line(t, 400, "malformed path");
		return;
	}
	export = export_of(t->service, path, &rest);
	if (!export) {
		answer_line(t, 404, "no such export");
		return;
	}
	if (!service_host_allowed(export, t->view.peer)) {
		answer_line(t, 403, "this host may not read the export");
		return;
	}
	store_caller(export->store, &root, &caller);
	fd = store_open_path(export->store, &caller, rest);
	if (fd < 0) {
		answer_line(t, fd == -EACCES ? 403 : 404,
			    fd == -EACCES ? "permission denied" : "no such file");
		return;
	}
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		answer_file(t, export->store, fd);
	else if (S_ISDIR(st.st_mode))
		answer_directory(t, fd, strspn(rest, "/") == strlen(rest));
	else
		answer_line(t, 404, "not a file");
	close(fd);
}

/* ---- POST /v1/join ---- */

static void answer_join(struct task *t)
{
	struct service *s = t->service;
	const struct server_request_view *view = &t->view;
	struct tls_error error = { "" };
	char *certificate = NULL, *text;
	const char *token, *request;
	json_t *body, *reply;
	int result;

	if (!s->tls_directory) {
		answer_line(t, 404, "hosts do not join an origin without TLS");
		return;
	}
	if (view->body.length > JOIN_BYTES_MAX) {
		answer_line(t, 413, "too large for a signing request");
		return;
	}
	body = json_loadb((const char *)view->body.data, view->body.length, 0, NULL);
	if (json_unpack(body, "{s:s, s:s}", "token", &token, "request", &request) < 0) {
		json_decref(body);
		answer_line(t, 400, "expected {\"token\": ..., \"request\": ...}");
		return;
	}
	result = tls_sign(s->tls_directory, token, request, &certificate, &error);
	json_decref(body);
	if (result) {
		service_log("event=join_refused reason=\"%s\"", error.text);
		answer_line(t, result == -EACCES ? 403 : result == -EINVAL ? 400 : 500, error.text);
		return;
	}
	reply = json_pack("{s:s}", "certificate", certificate);
	free(certificate);
	text = reply ? json_dumps(reply, 0) : NULL;
	json_decref(reply);
	service_log("event=joined");
	if (text)
		answer_body(t, 200, "application/json", NULL, text, strlen(text));
	else
		answer_line(t, 503, "out of memory");
}

void service_plain(struct task *t)
{
	const struct server_request_view *view = &t->view;
	bool get = strcmp(view->method, "GET") == 0;
	bool join = strcmp(view->path, "/v1/join") == 0;

	credentials_reset();
	if (join && strcmp(view->method, "POST") == 0)
		answer_join(t);
	else if (join || strncmp(view->path, "/v1/", 4) == 0 || !get)
		answer_line(t, 405, "method not allowed here");
	else if (!view->peer)
		answer_line(t, 403, "this needs the certificate of a host that joined");
	else if (strcmp(view->path, "/status") == 0)
		answer_status(t);
	else if (strncmp(view->path, "/files/", 7) == 0)
		answer_path(t, view->path + 7);
	else
		answer_line(t, 404, "nothing here; try /status or /files/EXPORT/");
}
