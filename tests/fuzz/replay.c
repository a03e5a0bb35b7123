/*
 * replay.c - runs a fuzz target over its corpus, and over every single-byte damage of it.
 *
 * The corpus is text, one input a file: hex digits, blanks ignored, '#' to the end of the line is
 * a comment. Arguments: the files. Under a fuzzer this file is left out.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes read; -1: not hex text. */
static long read_hex(FILE *file, uint8_t *data)
{
	long length = 0;
	int c, high = -1;

	while ((c = fgetc(file)) != EOF) {
		if (c == '#') {
			while (c != EOF && c != '\n')
				c = fgetc(file);
			continue;
		}
		if (c == ' ' || c == '\n' || c == '\t')
			continue;
		if (digit(c) < 0 || length == INPUT_BYTES_MAX)
			return -1;
		if (high < 0) {
			high = digit(c);
			continue;
		}
		data[length++] = (uint8_t)(high << 4 | digit(c));
		high = -1;
	}
	return high < 0 ? length : -1;
}

/* An exact heap copy, so that a sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t length)
{
	uint8_t *copy = malloc(length ? length : 1);

	if (!copy)
		abort();
	memcpy(copy, data, length);
	LLVMFuzzerTestOneInput(copy, length);
	free(copy);
}

int main(int argc, char **argv)
{
	static uint8_t data[INPUT_BYTES_MAX];

	if (argc < 2) {
		fprintf(stderr, "no corpus: nothing was tested\n");
		return EXIT_FAILURE;
	}
	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "r");
		long length = file ? read_hex(file, data) : -1;

		if (file)
			fclose(file);
		if (length < 0) {
			fprintf(stderr, "%s: not an input in hex text\n", argv[i]);
			return EXIT_FAILURE;
		}
		run(data, (size_t)length);
		for (long at = 0; at < length; at++) {
			run(data, (size_t)at);
			for (unsigned flip = 1; flip < 256; flip <<= 1) {
				data[at] ^= (uint8_t)flip;
				run(data, (size_t)length);
				data[at] ^= (uint8_t)flip;
			}
		}
	}
	return EXIT_SUCCESS;
}
