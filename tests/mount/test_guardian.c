/*
 * A FUSE server of a few lines, raw on /dev/fuse, with pages, names and attributes that the kernel
 * may keep for ever; a guardian; and processes that hold a mapping and a descriptor when the
 * server is killed or stopped. Root, /dev/fuse and a mount namespace, or it is skipped.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount/guardian.h"
#include "tests/unit/own_mounts.h"

enum { FILE_NODE = 2, HELD_NODE = 3 };
#define FILE_BYTES 65536
#define TERM_MS 2000 /* a server that is not scheduled for so long is late, and rightly fenced */
/* No answer later than this is an answer; far above what the guardian promises. */
#define GIVE_UP_MS 60000

/* What the test tells its server, and the other way. */
struct shared {
	_Atomic char content;   /* every byte of every file */
	atomic_bool serving;    /* INIT is answered, the guardian knows the mount */
	atomic_bool renewing;
	atomic_int reads;
	atomic_int rounds;      /* of its loop */
};

static char directory[128];
static struct shared *shared;
static struct guardian *guardian;
static pid_t server;
static int have_root = -1;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Polls until `condition` or the time is up. */
#define WAIT_FOR(condition)                                                             \
	({                                                                              \
		uint64_t give_up = now_ns() + GIVE_UP_MS * NS_PER_MS;                   \
		while (!(condition) && now_ns() < give_up)                              \
			usleep(2000);                                                   \
		(condition);                                                            \
	})

/* The server. */

static void reply(int fd, uint64_t unique, int error, const void *body, size_t length)
{
	struct fuse_out_header header = { (uint32_t)(sizeof(header) + length), error, unique };
	static char buffer[FILE_BYTES + sizeof(header)];

	memcpy(buffer, &header, sizeof(header));
	if (length)
		memcpy(buffer + sizeof(header), body, length);
	if (write(fd, buffer, header.len) < 0 && errno == ENODEV)
		_exit(0);
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr a = { .ino = node, .nlink = 1, .blksize = 4096 };

	a.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
	a.size = node == FUSE_ROOT_ID ? 0 : FILE_BYTES;
	return a;
}

static void answer(int fd, const struct fuse_in_header *in, const char *body)
{
	static char page[FILE_BYTES];
	struct fuse_entry_out entry = { .entry_valid = 3600, .attr_valid = 3600 };
	struct fuse_attr_out attr = { .attr_valid = 3600, .attr = attributes(in->nodeid) };
	/* Closing asks for nothing: it could not be answered while the server is stopped. */
	struct fuse_open_out opened = { .open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH };
	const struct fuse_read_in *read_in = (const void *)body;

	switch (in->opcode) {
	case FUSE_LOOKUP:
		entry.nodeid = strcmp(body, "file") == 0 ? FILE_NODE :
			       strcmp(body, "held") == 0 ? HELD_NODE : 0;
		entry.attr = attributes(entry.nodeid);
		reply(fd, in->unique, entry.nodeid ? 0 : -ENOENT, &entry,
		      entry.nodeid ? sizeof(entry) : 0);
		return;
	case FUSE_GETATTR:
		reply(fd, in->unique, 0, &attr, sizeof(attr));
		return;
	case FUSE_OPEN:
		reply(fd, in->unique, 0, &opened, sizeof(opened));
		return;
	case FUSE_READ:
		atomic_fetch_add(&shared->reads, 1);
		if (in->nodeid == HELD_NODE)
			return; /* never answered */
		memset(page, atomic_load(&shared->content), sizeof(page));
		reply(fd, in->unique, 0, page, read_in->size);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	case FUSE_RELEASE:
		reply(fd, in->unique, 0, NULL, 0);
		return;
	default:
		reply(fd, in->unique, -ENOSYS, NULL, 0);
	}
}

static void answer_init(int fd, const struct fuse_in_header *in, const char *body)
{
	const struct fuse_init_in *init = (const void *)body;
	struct fuse_init_out out = { .major = 7, .minor = 31, .max_readahead = 65536,
				     .max_write = FILE_BYTES, .max_background = 12,
				     .congestion_threshold = 9 };
	struct statx st;
	bool has_epoch = init->minor >= 44;

	reply(fd, in->unique, 0, &out, sizeof(out));
	if (statx(AT_FDCWD, directory, AT_STATX_DONT_SYNC, 0, &st) < 0 ||
	    guardian_mounted(guardian, makedev(st.stx_dev_major, st.stx_dev_minor), has_epoch) < 0)
		_exit(2);
	atomic_store(&shared->serving, true);
}

static void serve(void)
{
	static char buffer[FILE_BYTES + 65536];
	char options[128];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=65536", fd);
	if (fd < 0 || guardian_give(guardian, fd) < 0 ||
	    mount("test", directory, "fuse", MS_NOSUID | MS_NODEV, options) < 0)
		_exit(1);
	for (;;) {
		struct pollfd wait = { fd, POLLIN, 0 };
		const struct fuse_in_header *in = (const void *)buffer;
		ssize_t length;

		/* Before anything is answered, as a daemon does that looks at its clock. */
		if (atomic_load(&shared->renewing))
			guardian_renew(guardian,
				       (struct instant){ now_ns() + TERM_MS * NS_PER_MS });
		atomic_fetch_add(&shared->rounds, 1);
		if (poll(&wait, 1, 50) <= 0)
			continue;
		length = read(fd, buffer, sizeof(buffer));
		if (length < 0 && errno == ENODEV)
			_exit(0);
		if (length < (ssize_t)sizeof(*in))
			continue;
		if (in->opcode == FUSE_INIT)
			answer_init(fd, in, buffer + sizeof(*in));
		else
			answer(fd, in, buffer + sizeof(*in));
	}
}

/* The holder of a descriptor and a mapping, in a process that a signal may end. */

struct result {
	_Atomic int error;   /* of read(2): 0, errno */
	_Atomic char byte;   /* what it read */
	_Atomic char mapped; /* what the mapping said */
	atomic_bool read_done, done;
};

static struct result *results;

static void touch(const char *map, int fd, struct result *r)
{
	char byte = 0;
	ssize_t n = pread(fd, &byte, 1, 4096);

	atomic_store(&r->error, n < 0 ? errno : 0);
	atomic_store(&r->byte, byte);
	atomic_store(&r->read_done, true);
	atomic_store(&r->mapped, *(const volatile char *)map);
	atomic_store(&r->done, true);
	_exit(0);
}

/* Reads through descriptor and mapping in a child. */
static pid_t start_touch(const char *map, int fd, struct result *r)
{
	pid_t pid;

	memset(r, 0, sizeof(*r));
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGBUS, SIG_DFL); /* sanitizers take it */
		touch(map, fd, r);
	}
	return pid;
}

static bool ended(pid_t pid, int *ret_status)
{
	return WAIT_FOR(waitpid(pid, ret_status, WNOHANG) != 0);
}

/* It waits in the kernel, and not for the processor: for a while, since a page fault waits, too. */
static bool sleeps(pid_t pid)
{
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	for (int i = 0; i < 25; i++) {
		FILE *file = fopen(path, "r");
		const char *state = NULL;

		if (file && fgets(line, sizeof(line), file))
			state = strrchr(line, ')');
		if (file)
			fclose(file);
		if (!state || (state[2] != 'S' && state[2] != 'D'))
			return false;
		usleep(2000);
	}
	return true;
}

/* Until a read fails: the last pass comes after the abort. Every reader ends by itself. */
static void wait_until_refused(const char *map, int fd)
{
	uint64_t until = now_ns() + GIVE_UP_MS * NS_PER_MS;
	int status;

	do {
		pid_t pid = start_touch(map, fd, &results[1]);

		ck_assert_msg(now_ns() < until && ended(pid, &status), "old bytes stay");
	} while (atomic_load(&results[1].error) == 0);
}

/* No old byte by descriptor, mapping, or a new mapping; everything ends. */
static void expect_nothing_old(const char *map, int fd, char old)
{
	struct result *r = &results[0];
	int status = 0;
	pid_t pid = start_touch(map, fd, r);
	void *again;

	ck_assert_msg(ended(pid, &status), "a reader hangs");
	ck_assert(atomic_load(&r->read_done));
	ck_assert_int_ne(atomic_load(&r->error), 0);
	ck_assert_int_ne(atomic_load(&r->byte), old);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	again = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 8192);
	if (again != MAP_FAILED) {
		pid = start_touch(again, fd, r);
		ck_assert(ended(pid, &status));
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
		munmap(again, 4096);
	}
}

static bool set_up(uint32_t inode_count_max, unsigned abort_after_ms)
{
	struct guardian_config config = { .inode_count_max = inode_count_max,
					  .abort_after = duration_ms(abort_after_ms),
					  .mountpoint = directory, .log_to_stderr = true };

	if (have_root < 0)
		have_root = geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 &&
			    own_mounts();
	if (!have_root) {
		fprintf(stderr, "SKIPPED: the guardian needs root, /dev/fuse and a mount namespace\n");
		return false;
	}
	snprintf(directory, sizeof(directory), "%s/guardian-XXXXXX", getenv("TMPDIR"));
	ck_assert_ptr_nonnull(mkdtemp(directory));
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	results = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(shared != MAP_FAILED && results != MAP_FAILED);
	atomic_store(&shared->content, 'A');
	atomic_store(&shared->renewing, true);
	ck_assert_int_eq(guardian_start(&config, &guardian), 0);
	server = fork();
	if (server == 0)
		serve();
	ck_assert_msg(WAIT_FOR(atomic_load(&shared->serving)), "the server does not start");
	return true;
}

static int open_in_mount(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Opens and maps a file and has its pages in the kernel. */
static const char *map_file(int *ret_fd)
{
	int fd = open_in_mount("file");
	const char *map;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(guardian_add(guardian, FILE_NODE), 0);
	map = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert(map != MAP_FAILED);
	for (int i = 0; i < FILE_BYTES; i += 4096)
		ck_assert_int_eq(((const volatile char *)map)[i], 'A');
	*ret_fd = fd;
	return map;
}

static void tear_down(const char *map, int fd)
{
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	if (map)
		munmap((void *)(uintptr_t)map, FILE_BYTES);
	if (fd >= 0)
		close(fd);
	guardian_stop(guardian);
	ck_assert_int_eq(umount2(directory, MNT_DETACH), 0);
	ck_assert_int_eq(rmdir(directory), 0);
	munmap(shared, 4096);
	munmap(results, 4096);
}

START_TEST(a_killed_daemon_leaves_no_old_byte)
{
	const char *map;
	int fd, other;

	if (!set_up(16, 1000))
		return;
	map = map_file(&fd);
	kill(server, SIGKILL);
	ck_assert(WAIT_FOR(guardian_aborted(guardian)));
	/* Aborted means that no page comes in; what was there is dropped right after. */
	wait_until_refused(map, fd);
	expect_nothing_old(map, fd, 'A');
	other = open_in_mount("file");
	ck_assert_int_lt(other, 0);
	ck_assert_int_eq(errno, ENOTCONN);
	ck_assert_uint_eq(guardian_fenced(guardian), 1);
	tear_down(map, fd);
}
END_TEST

START_TEST(who_waits_for_a_killed_daemon_is_released)
{
	struct result *r;
	int fd, held, status;
	const char *map;
	pid_t pid;

	if (!set_up(16, 1000))
		return;
	map = map_file(&fd);
	held = open_in_mount("held");
	ck_assert_int_ge(held, 0);
	ck_assert_int_ge(guardian_add(guardian, HELD_NODE), 0);
	atomic_store(&shared->reads, 0);
	r = &results[2];
	pid = start_touch(map, held, r);
	ck_assert(WAIT_FOR(atomic_load(&shared->reads) > 0));
	kill(server, SIGKILL);
	ck_assert_msg(ended(pid, &status), "it waits for ever");
	ck_assert_int_ne(atomic_load(&r->error), 0);
	ck_assert(WAIT_FOR(guardian_aborted(guardian)));
	close(held);
	tear_down(map, fd);
}
END_TEST

START_TEST(a_stopped_daemon_is_fenced_and_goes_on_when_it_comes_back)
{
	struct result *r;
	const char *map;
	int fd, status;
	pid_t pid;

	if (!set_up(16, 60000)) /* never aborted in this test */
		return;
	map = map_file(&fd);
	kill(server, SIGSTOP);
	ck_assert(WAIT_FOR(guardian_fenced(guardian) == 1));
	/* The fence is a pass over the table: a reader blocks once its inode's turn was. */
	r = &results[3];
	for (uint64_t until = now_ns() + GIVE_UP_MS * NS_PER_MS;;) {
		ck_assert_msg(now_ns() < until, "old bytes stay");
		pid = start_touch(map, fd, r);
		if (WAIT_FOR(atomic_load(&r->read_done) || sleeps(pid)) &&
		    !atomic_load(&r->read_done))
			break;
		/* It has read, but the fence may have come before it looked at the mapping. */
		kill(pid, SIGKILL);
		ck_assert(ended(pid, &status));
	}
	ck_assert_int_eq(waitpid(pid, &status, WNOHANG), 0);
	atomic_store(&shared->content, 'B');
	kill(server, SIGCONT);
	ck_assert(ended(pid, &status));
	ck_assert_int_eq(atomic_load(&r->error), 0);
	ck_assert_int_eq(atomic_load(&r->byte), 'B');
	ck_assert_int_eq(atomic_load(&r->mapped), 'B');
	ck_assert(!guardian_aborted(guardian));

	/* It guards on: the next stop is fenced as well. */
	kill(server, SIGSTOP);
	ck_assert(WAIT_FOR(guardian_fenced(guardian) == 2));
	kill(server, SIGCONT);
	tear_down(map, fd);
}
END_TEST

START_TEST(who_waits_for_a_stopped_daemon_is_released_by_an_abort)
{
	const char *map;
	int fd, status;

	if (!set_up(16, 700))
		return;
	map = map_file(&fd);
	kill(server, SIGSTOP);
	ck_assert(WAIT_FOR(guardian_fenced(guardian) == 1));
	ck_assert(!guardian_aborted(guardian)); /* nobody waits */
	/* Until one comes after the pass, and has to wait. */
	wait_until_refused(map, fd);
	ck_assert(WAIT_FOR(guardian_aborted(guardian))); /* said right after it is done */
	expect_nothing_old(map, fd, 'A');
	kill(server, SIGCONT);
	ck_assert_int_eq(waitpid(server, &status, 0), server); /* ENODEV: it exits by itself */
	ck_assert(WIFEXITED(status));
	server = fork(); /* something for tear_down to kill */
	if (server == 0)
		_exit(0);
	tear_down(map, fd);
}
END_TEST

START_TEST(a_read_in_flight_does_not_keep_the_pages_of_a_stopped_daemon)
{
	struct result *r;
	int fd, held, status;
	const char *map;
	pid_t pid;

	if (!set_up(16, 700))
		return;
	held = open_in_mount("held");
	ck_assert_int_ge(held, 0);
	ck_assert_int_ge(guardian_add(guardian, HELD_NODE), 0); /* first in the table: it blocks */
	map = map_file(&fd);
	atomic_store(&shared->reads, 0);
	r = &results[4];
	pid = start_touch(map, held, r);
	ck_assert(WAIT_FOR(atomic_load(&shared->reads) > 0));
	kill(server, SIGSTOP);
	ck_assert_msg(ended(pid, &status), "it waits for ever");
	ck_assert_int_ne(atomic_load(&r->error), 0);
	ck_assert(WAIT_FOR(guardian_aborted(guardian))); /* said right after it is done */
	wait_until_refused(map, fd);
	expect_nothing_old(map, fd, 'A');
	close(held);
	tear_down(map, fd);
}
END_TEST

START_TEST(without_a_session_and_after_a_clean_stop_nothing_is_fenced)
{
	const char *map;
	int fd, rounds;

	if (!set_up(2, 300))
		return;
	map = map_file(&fd);
	ck_assert_int_eq(guardian_add(guardian, 77), 1);
	ck_assert_int_eq(guardian_add(guardian, 78), -ENOSPC);
	guardian_remove(guardian, 1);
	ck_assert_int_eq(guardian_add(guardian, 78), 1);
	atomic_store(&shared->renewing, false);
	rounds = atomic_load(&shared->rounds);
	ck_assert(WAIT_FOR(atomic_load(&shared->rounds) >= rounds + 2)); /* none renews any more */
	guardian_renew(guardian, (struct instant){ 0 });
	kill(server, SIGSTOP);
	usleep(TERM_MS * 1000 + 500000);
	ck_assert_uint_eq(guardian_fenced(guardian), 0);
	ck_assert_int_eq(map[0], 'A');
	/* A deadline that is nearer than the timer's is heeded. */
	guardian_renew(guardian, (struct instant){ now_ns() + 3600 * NS_PER_S });
	guardian_renew(guardian, (struct instant){ now_ns() + 10 * NS_PER_MS });
	ck_assert(WAIT_FOR(guardian_fenced(guardian) == 1));
	kill(server, SIGCONT);
	tear_down(map, fd);
}
END_TEST

static TCase *guardian_case(void)
{
	TCase *tcase = tcase_create("guardian");

	tcase_set_timeout(tcase, 240);
	tcase_add_test(tcase, a_killed_daemon_leaves_no_old_byte);
	tcase_add_test(tcase, who_waits_for_a_killed_daemon_is_released);
	tcase_add_test(tcase, a_stopped_daemon_is_fenced_and_goes_on_when_it_comes_back);
	tcase_add_test(tcase, who_waits_for_a_stopped_daemon_is_released_by_an_abort);
	tcase_add_test(tcase, a_read_in_flight_does_not_keep_the_pages_of_a_stopped_daemon);
	tcase_add_test(tcase, without_a_session_and_after_a_clean_stop_nothing_is_fenced);
	return tcase;
}

UNIT_MAIN("guardian", guardian_case)
