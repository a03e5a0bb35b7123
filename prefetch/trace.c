#include "prefetch/trace.h"

#include <errno.h>

static const char *const type_names[ACCESS_TYPE_COUNT] = {
#define X(name, text) [ACCESS_##name] = text,
	ACCESS_TYPES(X)
#undef X
};

/* ---- reading ---- */

struct cursor {
	struct slice line;
	size_t at;
	const char *expected; /* set: the line is refused */
};

static bool done(const struct cursor *c)
{
	return c->at == c->line.length;
}

static void refuse(struct cursor *c, const char *expected)
{
	if (!c->expected)
		c->expected = expected;
}

/* The characters up to the next blank, and the blank. */
static struct slice next_word(struct cursor *c)
{
	size_t start = c->at;
	struct slice word;

	while (!done(c) && c->line.data[c->at] != ' ')
		c->at++;
	word = (struct slice){ c->line.data + start, c->at - start };
	if (!done(c))
		c->at++;
	return word;
}

static bool parse_number(struct slice word, unsigned base, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (!word.length)
		return false;
	for (size_t i = 0; i < word.length; i++) {
		unsigned digit = (unsigned)word.data[i] - '0';

		if (word.data[i] < '0' || digit >= base || value > (UINT64_MAX - digit) / base)
			return false;
		value = value * base + digit;
	}
	*ret_value = value;
	return true;
}

static uint64_t number(struct cursor *c, struct slice word, uint64_t max, const char *expected)
{
	uint64_t value = 0;

	if (!parse_number(word, 10, &value) || value > max)
		refuse(c, expected);
	return value;
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One character of a name; false: none, the quote or what is refused. */
static bool next_character(struct cursor *c, uint8_t *ret_character)
{
	const uint8_t *data = c->line.data + c->at;
	size_t left = c->line.length - c->at;

	if (!left || data[0] < 0x20 || data[0] == 0x7f) {
		refuse(c, "a name that ends with a quote");
		return false;
	}
	if (data[0] == '"')
		return false;
	if (data[0] != '\\') {
		*ret_character = data[0];
		c->at++;
		return true;
	}
	if (left >= 2 && (data[1] == '"' || data[1] == '\\')) {
		*ret_character = data[1];
		c->at += 2;
		return true;
	}
	if (left < 4 || data[1] != 'x' || hex_digit(data[2]) < 0 || hex_digit(data[3]) < 0) {
		refuse(c, "\\\", \\\\ or \\x and two hexadecimal digits");
		return false;
	}
	*ret_character = (uint8_t)(hex_digit(data[2]) << 4 | hex_digit(data[3]));
	c->at += 4;
	return true;
}

static struct slice parse_name(struct cursor *c, uint8_t *buffer)
{
	size_t length = 0;
	uint8_t character;

	c->at++; /* the quote */
	while (next_character(c, &character)) {
		if (character == 0 || character == '/' || length == TRACE_NAME_MAX) {
			refuse(c, "a name of at most 255 bytes, without / and \\x00");
			break;
		}
		buffer[length++] = character;
	}
	if (!c->expected)
		c->at++;
	if (!c->expected && !done(c))
		refuse(c, "nothing behind the name");
	return (struct slice){ buffer, length };
}

static void parse_field(struct cursor *c, struct access *a)
{
	struct slice word = next_word(c), value = { word.data + 1, word.length ? word.length - 1 : 0 };
	uint64_t mode;

	if (!word.length) {
		refuse(c, "one blank between fields, and none at the end");
		return;
	}
	switch (word.data[0]) {
	case 'd':
		a->directory = number(c, value, UINT64_MAX, "d and the number of a directory");
		return;
	case 'r':
		a->reader = number(c, value, UINT64_MAX, "r and the number of a reader");
		return;
	case 's':
		a->size = number(c, value, INT64_MAX, "s and a size in bytes");
		return;
	case 'o':
		a->offset = number(c, value, INT64_MAX, "o and an offset in bytes");
		return;
	case 'l':
		a->length = number(c, value, INT64_MAX, "l and a length in bytes");
		return;
	case 'f':
		a->files = (uint32_t)number(c, value, UINT32_MAX, "f and a number of files");
		return;
	case 'D':
		a->directories =
			(uint32_t)number(c, value, UINT32_MAX, "D and a number of directories");
		return;
	case 't':
		if (!parse_number(value, 8, &mode) || mode > 0177777)
			refuse(c, "t and a file type in octal");
		else
			a->file_type = (uint32_t)mode & 0170000;
		return;
	case 'c':
		if (value.length)
			refuse(c, "c alone");
		a->cached = true;
		return;
	}
	refuse(c, "one of d r t s o l f D c, or a name in quotes");
}

static void parse_type(struct cursor *c, struct access *a)
{
	struct slice word = next_word(c);

	for (int i = 0; i < ACCESS_TYPE_COUNT; i++)
		if (slice_equal(word, slice_of(type_names[i]))) {
			a->type = (enum access_type)i;
			return;
		}
	refuse(c, "lookup, list, listed, open, read or close");
}

static void parse_line(struct trace_reader *r, struct cursor *c, struct trace_line *line)
{
	struct access *a = &line->access;
	struct slice first = next_word(c);

	if (slice_equal(first, slice_of("entry"))) {
		line->entry = true;
	} else {
		uint64_t us = number(c, first, TRACE_PAUSE_MAX,
				     "the microseconds since the line before, at most a day, or entry");

		if (c->expected)
			return;
		r->now = instant_add(r->now, (struct duration){ us * NS_PER_US });
		a->at = r->now;
		parse_type(c, a);
	}
	a->inode = number(c, next_word(c), UINT64_MAX, "the number of an inode");
	while (!c->expected && !done(c)) {
		if (c->line.data[c->at] == '"')
			a->name = parse_name(c, r->name);
		else
			parse_field(c, a);
	}
	if (!c->expected && c->line.length && c->line.data[c->line.length - 1] == ' ')
		refuse(c, "one blank between fields, and none at the end");
	if (!c->expected && line->entry && (!a->inode || !a->directory || !a->name.length))
		refuse(c, "of an entry an inode, its directory and its name");
}

static struct slice next_line(struct trace_reader *r)
{
	size_t start = r->at;
	struct slice line;

	while (r->at < r->text.length && r->text.data[r->at] != '\n')
		r->at++;
	line = (struct slice){ r->text.data + start, r->at - start };
	if (r->at < r->text.length)
		r->at++;
	r->line++;
	return line;
}

void trace_reader_init(struct trace_reader *r, struct slice text)
{
	memset(r, 0, sizeof(*r));
	r->text = text;
}

int trace_next(struct trace_reader *r, struct trace_line *ret_line)
{
	struct slice header = { (const uint8_t *)TRACE_HEADER, sizeof(TRACE_HEADER) - 2 };

	if (r->expected)
		return -EINVAL;
	if (r->at == 0 && !slice_equal(next_line(r), header)) {
		r->expected = "leasehold-trace 1";
		return -EINVAL;
	}
	while (r->at < r->text.length) {
		struct cursor c = { .line = next_line(r) };

		if (!c.line.length || c.line.data[0] == '#')
			continue;
		memset(ret_line, 0, sizeof(*ret_line));
		parse_line(r, &c, ret_line);
		r->expected = c.expected;
		return c.expected ? -EINVAL : 1;
	}
	return 0;
}

/* ---- writing ---- */

static void put_text(struct writer *w, const char *text)
{
	writer_bytes(w, text, strlen(text));
}

static void put_number(struct writer *w, uint64_t value, unsigned base)
{
	uint8_t digits[24];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (uint8_t)('0' + value % base);
		value /= base;
	} while (value);
	writer_bytes(w, digits + at, sizeof(digits) - at);
}

static void put_field(struct writer *w, const char *key, uint64_t value)
{
	if (!value)
		return;
	put_text(w, key);
	put_number(w, value, 10);
}

static void put_name(struct writer *w, struct slice name)
{
	static const char hex[] = "0123456789abcdef";

	put_text(w, " \"");
	for (size_t i = 0; i < name.length; i++) {
		uint8_t c = name.data[i];

		if (c == '"' || c == '\\')
			put_text(w, "\\");
		if (c < 0x20 || c == 0x7f) {
			put_text(w, "\\x");
			writer_u8(w, (uint8_t)hex[c >> 4]);
			writer_u8(w, (uint8_t)hex[c & 15]);
			continue;
		}
		writer_u8(w, c);
	}
	put_text(w, "\"");
}

void trace_write(struct writer *w, const struct trace_line *line, struct instant *previous)
{
	const struct access *a = &line->access;

	if (line->entry) {
		put_text(w, "entry");
	} else {
		uint64_t us = instant_until(*previous, a->at).ns / NS_PER_US;

		put_number(w, us < TRACE_PAUSE_MAX ? us : TRACE_PAUSE_MAX, 10);
		/* What is less than 1 us is not lost: it counts for the next line. */
		*previous = us < TRACE_PAUSE_MAX ?
				    instant_add(*previous, (struct duration){ us * NS_PER_US }) : a->at;
		put_text(w, " ");
		put_text(w, type_names[a->type]);
	}
	put_text(w, " ");
	put_number(w, a->inode, 10);
	put_field(w, " d", a->directory);
	put_field(w, " r", a->reader);
	if (a->file_type) {
		put_text(w, " t0");
		put_number(w, a->file_type & 0170000, 8);
	}
	put_field(w, " s", a->size);
	put_field(w, " o", a->offset);
	put_field(w, " l", a->length);
	put_field(w, " f", a->files);
	put_field(w, " D", a->directories);
	if (a->cached)
		put_text(w, " c");
	if (a->name.length)
		put_name(w, a->name);
	put_text(w, "\n");
}
