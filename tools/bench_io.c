/*
 * bench_io - the measured loops of tools/bench: one kind of access, run once, one number printed.
 *
 *   bench_io seq FILE            reads FILE in 1 MiB reads;            bytes per second
 *   bench_io rand FILE COUNT     COUNT reads of 4 KiB at random;       operations per second
 *   bench_io stat DIR COUNT      lstat of DIR/0 .. DIR/COUNT-1;        operations per second
 *   bench_io open DIR COUNT      open, read 4 KiB, close of the same;  operations per second
 *   bench_io write FILE BYTES    writes BYTES in 1 MiB writes, fsync;  bytes per second
 *
 * A checksum of what was read goes to standard error, so that two runs can be compared.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (1u << 20)

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t checksum; /* cheap: a word of every page */

static void add(const unsigned char *data, size_t length)
{
	for (size_t i = 0; i + 8 <= length; i += 4096) {
		uint64_t word;

		memcpy(&word, data + i, 8);
		checksum = checksum * 31 + word;
	}
}

static double sequential(const char *path, unsigned char *buffer)
{
	int fd = open(path, O_RDONLY);
	uint64_t total = 0;
	double start = now();
	ssize_t n;

	if (fd < 0)
		fail(path);
	while ((n = read(fd, buffer, BLOCK)) > 0) {
		add(buffer, (size_t)n);
		total += (uint64_t)n;
	}
	if (n < 0)
		fail(path);
	close(fd);
	return (double)total / (now() - start);
}

static double at_random(const char *path, uint64_t count, unsigned char *buffer)
{
	int fd = open(path, O_RDONLY);
	uint64_t state = 88172645463325252u, pages;
	struct stat st;
	double start;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(path);
	pages = (uint64_t)st.st_size / 4096;
	start = now();
	for (uint64_t i = 0; i < count; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		if (pread(fd, buffer, 4096, (off_t)(state % pages * 4096)) != 4096)
			fail(path);
		add(buffer, 4096);
	}
	close(fd);
	return (double)count / (now() - start);
}

static double many(const char *directory, uint64_t count, int with_open, unsigned char *buffer)
{
	double start = now();
	char path[4096];
	struct stat st;

	for (uint64_t i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%" PRIu64, directory, i);
		if (with_open) {
			int fd = open(path, O_RDONLY);
			ssize_t n = fd < 0 ? -1 : read(fd, buffer, 4096);

			if (n < 0)
				fail(path);
			add(buffer, (size_t)n);
			close(fd);
		} else if (lstat(path, &st) < 0) {
			fail(path);
		}
	}
	return (double)count / (now() - start);
}

static double writing(const char *path, uint64_t bytes, unsigned char *buffer)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	double start = now();

	if (fd < 0)
		fail(path);
	memset(buffer, 'w', BLOCK);
	for (uint64_t done = 0; done < bytes; done += BLOCK)
		if (write(fd, buffer, BLOCK) != BLOCK)
			fail(path);
	if (fsync(fd) < 0)
		fail(path);
	close(fd);
	return (double)bytes / (now() - start);
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
	unsigned char *buffer = malloc(BLOCK);
	double rate;

	if (argc < 3 || !buffer) {
		fprintf(stderr, "usage: bench_io seq|rand|stat|open|write PATH [COUNT]\n");
		return 2;
	}
	if (strcmp(argv[1], "seq") == 0)
		rate = sequential(argv[2], buffer);
	else if (strcmp(argv[1], "rand") == 0)
		rate = at_random(argv[2], count, buffer);
	else if (strcmp(argv[1], "stat") == 0)
		rate = many(argv[2], count, 0, buffer);
	else if (strcmp(argv[1], "open") == 0)
		rate = many(argv[2], count, 1, buffer);
	else if (strcmp(argv[1], "write") == 0)
		rate = writing(argv[2], count, buffer);
	else
		return 2;
	printf("%.0f\n", rate);
	fprintf(stderr, "%" PRIx64 "\n", checksum);
	free(buffer);
	return 0;
}
