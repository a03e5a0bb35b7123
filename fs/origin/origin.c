#include "fs/origin/origin.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/origin/sealer.h"
#include "fs/origin/service.h"
#include "fs/origin/watch.h"
#include "transport/tls.h"

#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"
#define DRIFT_PPM 1000u
#define MARGIN_MS 500u
#define DRAIN_MS 10000u
#define CONNECTIONS_PER_SESSION 4u
#define REQUESTS_MAX 16384u
#define OPERATIONS_MAX 65536u
#define LEASES_TOTAL_MAX (UINT64_C(16) << 20)
#define OPENS_MAX 262144u
#define LOCKS_MAX 65536u          /* of a session: ranges held, requests waiting */
#define LOCKS_TOTAL_MAX 1048576u
#define SLOTS_MAX SLOTS_PER_SESSION_MAX
#define ENDED_MAX 1024u
#define SESSIONS_SPARE 64u /* neither living nor forgotten yet */
#define INODES_MAX 65536u
#define NAMES_MAX 32

/* Everything that a running origin consists of, in the order in which it is made. */
struct origin {
	const struct origin_options *options;
	int state_fd;
	int lock_fd;
	int signal_fd;
	sigset_t old_mask;
	char tls_directory[4096];
	char token[TLS_TOKEN_BYTES];
	struct handle_key key;
	struct changes *changes;
	struct slots *slots;
	struct store *stores[ORIGIN_EXPORTS_MAX];
	SSL_CTX *tls;
	struct service *service;
	struct server *server;
	struct watch *watch;
	struct sealer *sealer;
};

static int complain(int error, const char *what, const char *subject)
{
	if (subject)
		fprintf(stderr, "leasehold origin: %s: %s%s%s\n", subject, what, error ? ": " : "",
			error ? strerror(-error) : "");
	else
		fprintf(stderr, "leasehold origin: %s%s%s\n", what, error ? ": " : "",
			error ? strerror(-error) : "");
	return error ? error : -EINVAL;
}

/* ---- the state directory ---- */

static int make_directories(const char *path)
{
	char *copy = strdup(path), *at;
	int error = 0;

	if (!copy)
		return -ENOMEM;
	for (at = copy + 1; !error && *at; at++) {
		if (*at != '/')
			continue;
		*at = 0;
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			error = -errno;
		*at = '/';
	}
	if (!error && mkdir(copy, 0700) < 0 && errno != EEXIST)
		error = -errno;
	free(copy);
	return error;
}

static int open_state(struct origin *o)
{
	const char *path = o->options->state;
	int error = make_directories(path);

	if (error)
		return complain(error, "cannot make the state directory", path);
	o->state_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (o->state_fd < 0)
		return complain(-errno, "cannot open the state directory", path);
	o->lock_fd = openat(o->state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (o->lock_fd < 0)
		return complain(-errno, "cannot write in the state directory", path);
	if (flock(o->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ?
			       complain(-EBUSY, "another origin uses this state directory", path) :
			       complain(-errno, "cannot lock the state directory", path);
	error = handle_key_load(o->state_fd, "handle-key", &o->key);
	if (error)
		return complain(error, "cannot use handle-key in the state directory (without it "
				       "every handle that hosts keep is void; remove it to start "
				       "afresh)", path);
	return 0;
}

/* What was done in sessions; of no use when the store may have gone back in time. */
static int open_slots(struct origin *o, bool reset)
{
	const char *text;
	int error = slots_open(o->state_fd, o->options->sessions + ENDED_MAX + SESSIONS_SPARE,
			       o->options->workers, reset, &o->slots, &text);

	if (error)
		return complain(error, "cannot open the record of sessions' slots in it",
				o->options->state);
	if (text)
		fprintf(stderr, "leasehold origin: event=slots_lost reason=\"%s\"\n", text);
	return 0;
}

static int open_changes(struct origin *o)
{
	char boot_id[64] = "";
	const char *text;
	FILE *file = fopen(BOOT_ID_PATH, "re");
	int error;

	if (!file || !fgets(boot_id, sizeof(boot_id), file)) {
		error = errno ? -errno : -EIO;
		if (file)
			fclose(file);
		return complain(error, "cannot read the id of this boot", BOOT_ID_PATH);
	}
	fclose(file);
	boot_id[strcspn(boot_id, "\n")] = 0;
	error = changes_open(o->state_fd, "changes", boot_id, CHANGES_RECORDS_DEFAULT, &o->changes,
			     &text);
	if (error)
		return complain(error, "cannot open the change table in it", o->options->state);
	if (text)
		fprintf(stderr, "leasehold origin: event=new_incarnation reason=\"%s\" (what hosts "
			"have cached is fetched again)\n", text);
	return open_slots(o, changes_crashed(o->changes));
}

/* ---- exports ---- */

static uint32_t raise_descriptor_limit(uint32_t export_count)
{
	struct rlimit limit = { .rlim_cur = 1024, .rlim_max = 1024 };
	uint64_t share;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			(void)getrlimit(RLIMIT_NOFILE, &limit); /* then with what there is */
	}
	/* Half for connections; an inode takes up to three. */
	share = limit.rlim_cur / 2 / 3 / (export_count ? export_count : 1);
	if (share < 64)
		share = 64;
	return share > INODES_MAX ? INODES_MAX : (uint32_t)share;
}

static int check_exports(const struct origin_options *options)
{
	if (options->export_count == 0)
		return complain(0, "nothing to export; name a directory", NULL);
	for (uint32_t i = 0; i < options->export_count; i++)
		for (uint32_t j = 0; j < i; j++)
			if (handle_export_id(options->exports[i].name) ==
			    handle_export_id(options->exports[j].name))
				return complain(0, "two exports have this name, or names too alike;"
						   " choose another", options->exports[i].name);
	return 0;
}

static int open_exports(struct origin *o)
{
	const struct origin_options *options = o->options;
	uint32_t inodes = raise_descriptor_limit(options->export_count);
	char text[STORE_TEXT_BYTES];
	int error = check_exports(options);

	for (uint32_t i = 0; !error && i < options->export_count; i++) {
		struct store_config config = {
			.name = options->exports[i].name,
			.directory = options->exports[i].directory,
			.read_only = options->exports[i].read_only,
			.root_squash = options->exports[i].root_squash,
			.key = o->key,
			.changes = o->changes,
			.inode_count_max = inodes,
		};

		error = store_open(&config, &o->stores[i], text);
		if (error)
			fprintf(stderr, "leasehold origin: %s\n", text);
	}
	return error;
}

/* ---- who we are ---- */

/* Splits "NAME[,NAME]" into names that point into `buffer`. */
static void split_names(char *buffer, const char *names[NAMES_MAX + 1])
{
	unsigned count = 0;
	char *save, *name = strtok_r(buffer, ",", &save);

	for (; name && count < NAMES_MAX; name = strtok_r(NULL, ",", &save))
		names[count++] = name;
	names[count] = NULL;
}

/* The host part of "ADDR:PORT" or "[ADDR6]:PORT"; false: any address. */
static bool listen_host(const char *listen, char *ret_host, size_t size)
{
	const char *colon = strrchr(listen, ':');
	size_t length = colon ? (size_t)(colon - listen) : strlen(listen);

	if (length >= 2 && listen[0] == '[' && listen[length - 1] == ']') {
		listen++;
		length -= 2;
	}
	if (length == 0 || length >= size)
		return false;
	memcpy(ret_host, listen, length);
	ret_host[length] = 0;
	return strcmp(ret_host, "0.0.0.0") != 0 && strcmp(ret_host, "::") != 0;
}

static int open_tls(struct origin *o)
{
	const struct origin_options *options = o->options;
	struct tls_error error = { "" };
	const char *names[NAMES_MAX + 2];
	char buffer[4096], host[256];
	unsigned count = 0;
	int result;

	if (options->cleartext)
		return 0;
	if (snprintf(buffer, sizeof(buffer), "%s", options->name ? options->name : "") >=
	    (int)sizeof(buffer))
		return complain(-ENAMETOOLONG, "--name is too long", NULL);
	split_names(buffer, names);
	while (names[count])
		count++;
	if (listen_host(options->listen, host, sizeof(host))) {
		names[count++] = host;
		names[count] = NULL;
	}
	if (snprintf(o->tls_directory, sizeof(o->tls_directory), "%s/tls", options->state) >=
	    (int)sizeof(o->tls_directory))
		return complain(-ENAMETOOLONG, "the path is too long", options->state);
	if (mkdir(o->tls_directory, 0700) < 0 && errno != EEXIST)
		return complain(-errno, "cannot make this directory", o->tls_directory);
	if (options->new_token && unlinkat(o->state_fd, "tls/token", 0) < 0 && errno != ENOENT)
		return complain(-errno, "cannot remove the old token", o->tls_directory);
	result = tls_authority_prepare(o->tls_directory, names, o->token, &error);
	if (!result) {
		o->tls = tls_server_context(o->tls_directory, &error);
		result = o->tls ? 0 : -EINVAL;
	}
	if (result)
		fprintf(stderr, "leasehold origin: %s\n", error.text);
	return result;
}

/* ---- serving ---- */

static int open_service(struct origin *o)
{
	const struct origin_options *options = o->options;
	struct service_export exports[ORIGIN_EXPORTS_MAX];
	struct service_config config = {
		.authority = {
			.term = duration_ms(options->term),
			.drift_ppm = DRIFT_PPM,
			.margin = duration_ms(MARGIN_MS),
			.session_count_max = options->sessions,
			.slot_count_max = SLOTS_MAX,
			.lease_count_max = options->leases,
			.lease_total_max = LEASES_TOTAL_MAX,
			.operation_count_max = OPERATIONS_MAX,
			.open_count_max = OPENS_MAX,
			.lock_count_max = LOCKS_MAX,
			.lock_total_max = LOCKS_TOTAL_MAX,
			.ended_count_max = ENDED_MAX,
			.backoff_min = duration_ms(10),
			.backoff_max = duration_ms(1000),
		},
		.changes = o->changes,
		.slots = o->slots,
		.exports = exports,
		.export_count = options->export_count,
		.worker_count = options->workers,
		.state_fd = o->state_fd,
		.tls_directory = options->cleartext ? NULL : o->tls_directory,
	};
	char text[512];
	int error;

	for (uint32_t i = 0; i < options->export_count; i++)
		exports[i] = (struct service_export){ o->stores[i], options->exports[i].hosts };
	error = service_create(&config, &o->service, text, sizeof(text));
	if (error) {
		fprintf(stderr, "leasehold origin: %s\n", text);
		return error;
	}
	error = sealer_start(o->service, o->state_fd, &o->sealer);
	if (error)
		return complain(error, "cannot read which directories have a policy that seals",
				options->state);
	error = watch_start(o->service, exports, options->export_count, &o->watch);
	return error ? complain(error, "cannot watch the exported directories", NULL) : 0;
}

static unsigned loop_count(void)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	return processors < 2 ? 1 : processors > 8 ? 4 : (unsigned)processors / 2 + 1;
}

static int open_server(struct origin *o)
{
	uint64_t connections = (uint64_t)o->options->sessions * CONNECTIONS_PER_SESSION;
	struct server_config config = {
		.address = o->options->listen,
		.tls = o->tls,
		.loop_count = loop_count(),
		.connection_count_max = connections > UINT32_MAX ? UINT32_MAX :
								    (unsigned)connections,
		.request_count_max = REQUESTS_MAX,
		.handler = service_handle,
		.context = o->service,
	};
	char text[512] = "";
	int error = server_create(&config, &o->server, text, sizeof(text));

	if (error)
		fprintf(stderr, "leasehold origin: %s\n", text);
	else
		service_set_server(o->service, o->server);
	return error;
}

static void print_commands(const struct origin *o)
{
	char host[256];
	bool v6;

	if (!listen_host(o->options->listen, host, sizeof(host)) &&
	    gethostname(host, sizeof(host)) < 0)
		snprintf(host, sizeof(host), "localhost");
	host[sizeof(host) - 1] = 0;
	v6 = strchr(host, ':') != NULL;
	for (uint32_t i = 0; i < o->options->export_count; i++) {
		printf("leasehold mount %s://%s%s%s:%u/%s MOUNTPOINT --cache DIR --cache-size 10G",
		       o->options->cleartext ? "http" : "https", v6 ? "[" : "", host, v6 ? "]" : "",
		       server_port(o->server), o->options->exports[i].name);
		if (!o->options->cleartext)
			printf(" --join %s", o->token);
		printf("\n");
	}
	fflush(stdout);
}

static int block_signals(struct origin *o)
{
	sigset_t mask;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	/* Before any thread is made, so that all of them inherit it. */
	if (pthread_sigmask(SIG_BLOCK, &mask, &o->old_mask) != 0)
		return complain(-EINVAL, "cannot block signals", NULL);
	o->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
	return o->signal_fd < 0 ? complain(-errno, "cannot wait for signals", NULL) : 0;
}

static void wait_for_signal(struct origin *o)
{
	struct signalfd_siginfo info;

	while (read(o->signal_fd, &info, sizeof(info)) < 0 && errno == EINTR)
		;
	fprintf(stderr, "leasehold origin: event=stopping signal=%u\n", info.ssi_signo);
}

/* The other way round; also from half-way. `clean`: everything was served to its end. */
static void origin_finish(struct origin *o, bool clean)
{
	watch_stop(o->watch);
	if (o->service)
		service_drain(o->service);
	if (o->server)
		server_drain(o->server, duration_ms(DRAIN_MS));
	if (o->service) {
		service_set_server(o->service, NULL);
		service_stop(o->service);
	}
	sealer_stop(o->sealer); /* the service's workers tell it */
	/* Streams call back into the service until the server is gone. */
	server_destroy(o->server);
	service_destroy(o->service);
	SSL_CTX_free(o->tls);
	for (uint32_t i = 0; i < o->options->export_count; i++) {
		if (!o->stores[i])
			continue;
		if (clean && !store_read_only(o->stores[i])) {
			int error = store_sync_all(o->stores[i]);

			if (error)
				clean = (complain(error, "not everything could be synced",
						  store_name(o->stores[i])), false);
		}
		store_close(o->stores[i]);
	}
	if (clean && slots_sync(o->slots))
		clean = false; /* the next start believes neither */
	slots_close(o->slots);
	changes_close(o->changes, clean);
	if (o->signal_fd >= 0)
		close(o->signal_fd);
	if (o->lock_fd >= 0)
		close(o->lock_fd);
	if (o->state_fd >= 0)
		close(o->state_fd);
}

int origin_run(const struct origin_options *options)
{
	struct origin *o = (struct origin *)calloc(1, sizeof(*o));
	sigset_t old_mask;
	int error;

	if (!o)
		return complain(-ENOMEM, "no memory", NULL);
	o->options = options;
	o->state_fd = o->lock_fd = o->signal_fd = -1;
	umask(0); /* modes come from hosts, which have applied theirs */
	error = block_signals(o);
	old_mask = o->old_mask;
	if (!error)
		error = open_state(o);
	if (!error)
		error = open_changes(o);
	if (!error)
		error = open_exports(o);
	if (!error)
		error = open_tls(o);
	if (!error)
		error = open_service(o);
	if (!error)
		error = open_server(o);
	if (!error) {
		print_commands(o);
		wait_for_signal(o);
	}
	origin_finish(o, !error);
	pthread_sigmask(SIG_SETMASK, &old_mask, NULL);
	free(o);
	return error;
}
