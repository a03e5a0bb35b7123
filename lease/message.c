#include "lease/message.h"

#include <errno.h>

/* ---- writing a field ---- */

static void put_U8(struct writer *w, const uint8_t *v)
{
	writer_u8(w, *v);
}

static void put_U16(struct writer *w, const uint16_t *v)
{
	writer_u16(w, *v);
}

static void put_U32(struct writer *w, const uint32_t *v)
{
	writer_u32(w, *v);
}

static void put_U64(struct writer *w, const uint64_t *v)
{
	writer_u64(w, *v);
}

static void put_HANDLE(struct writer *w, const struct handle *v)
{
	if (v->length > HANDLE_BYTES_MAX) {
		w->failed = true;
		return;
	}
	writer_u8(w, v->length);
	writer_bytes(w, v->bytes, v->length);
}

static void put_CHANGE(struct writer *w, const struct change *v)
{
	writer_u64(w, v->incarnation);
	writer_u64(w, v->counter);
}

static void put_NAME(struct writer *w, const struct slice *v)
{
	if (v->length > NAME_BYTES_MAX) {
		w->failed = true;
		return;
	}
	writer_u8(w, (uint8_t)v->length);
	writer_bytes(w, v->data, v->length);
}

static void put_BYTES(struct writer *w, const struct slice *v)
{
	if (v->length > MESSAGE_BYTES_MAX) {
		w->failed = true;
		return;
	}
	writer_u32(w, (uint32_t)v->length);
	writer_bytes(w, v->data, v->length);
}

static void put_CREDENTIAL(struct writer *w, const struct credential *v)
{
	if (v->group_count > GROUPS_MAX) {
		w->failed = true;
		return;
	}
	writer_u32(w, v->uid);
	writer_u32(w, v->gid);
	writer_u8(w, (uint8_t)v->group_count);
	for (uint32_t i = 0; i < v->group_count; i++)
		writer_u32(w, v->groups[i]);
}

#define PUT_FIELD(kind, name) put_##kind(w, &v->name);

static void put_ATTRIBUTES(struct writer *w, const struct attributes *v)
{
	ATTRIBUTE_FIELDS(PUT_FIELD)
}

/* ---- reading a field ---- */

static void get_U8(struct reader *r, uint8_t *v)
{
	*v = reader_u8(r);
}

static void get_U16(struct reader *r, uint16_t *v)
{
	*v = reader_u16(r);
}

static void get_U32(struct reader *r, uint32_t *v)
{
	*v = reader_u32(r);
}

static void get_U64(struct reader *r, uint64_t *v)
{
	*v = reader_u64(r);
}

static void get_HANDLE(struct reader *r, struct handle *v)
{
	uint8_t length = reader_u8(r);
	struct slice bytes;

	memset(v, 0, sizeof(*v));
	if (length > HANDLE_BYTES_MAX) {
		r->failed = true;
		return;
	}
	bytes = reader_bytes(r, length);
	if (r->failed || length == 0)
		return;
	v->length = length;
	memcpy(v->bytes, bytes.data, length);
}

static void get_CHANGE(struct reader *r, struct change *v)
{
	v->incarnation = reader_u64(r);
	v->counter = reader_u64(r);
}

static void get_NAME(struct reader *r, struct slice *v)
{
	uint8_t length = reader_u8(r);

	*v = reader_bytes(r, length);
}

static void get_BYTES(struct reader *r, struct slice *v)
{
	uint32_t length = reader_u32(r);

	if (length > MESSAGE_BYTES_MAX)
		r->failed = true;
	*v = reader_bytes(r, length);
}

static void get_CREDENTIAL(struct reader *r, struct credential *v)
{
	memset(v, 0, sizeof(*v));
	v->uid = reader_u32(r);
	v->gid = reader_u32(r);
	v->group_count = reader_u8(r);
	if (v->group_count > GROUPS_MAX) {
		r->failed = true;
		v->group_count = 0;
	}
	for (uint32_t i = 0; i < v->group_count; i++)
		v->groups[i] = reader_u32(r);
}

#define GET_FIELD(kind, name) get_##kind(r, &v->name);

static void get_ATTRIBUTES(struct reader *r, struct attributes *v)
{
	ATTRIBUTE_FIELDS(GET_FIELD)
}

/* ---- items ---- */

#define DEFINE_ITEM(name)                                                                       \
	void item_##name##_write(struct writer *w, const struct item_##name *v)                 \
	{                                                                                       \
		ITEM_FIELDS_##name(PUT_FIELD)                                                   \
	}                                                                                       \
	bool item_##name##_read(struct reader *r, struct item_##name *v)                        \
	{                                                                                       \
		if (r->failed || r->at == r->length)                                            \
			return false;                                                           \
		ITEM_FIELDS_##name(GET_FIELD)                                                   \
		return !r->failed;                                                              \
	}
LEASE_ITEMS(DEFINE_ITEM)

/* ---- messages ---- */

#define DEFINE_CODEC(name, number)                                                              \
	static void put_message_##name(struct writer *w, const struct message_##name *v)        \
	{                                                                                       \
		FIELDS_##name(PUT_FIELD)                                                        \
	}                                                                                       \
	static void get_message_##name(struct reader *r, struct message_##name *v)              \
	{                                                                                       \
		FIELDS_##name(GET_FIELD)                                                        \
	}
LEASE_MESSAGES(DEFINE_CODEC)

void message_encode(struct writer *w, const struct message *message)
{
	writer_u16(w, (uint16_t)message->type);
	switch (message->type) {
#define ENCODE_CASE(name, number)                                                               \
	case MESSAGE_##name:                                                                    \
		put_message_##name(w, &message->name);                                          \
		return;
		LEASE_MESSAGES(ENCODE_CASE)
	}
	w->failed = true;
}

int message_decode(struct slice bytes, struct message *ret_message)
{
	struct reader r = reader_of(bytes.data, bytes.length);
	uint16_t type = reader_u16(&r);

	if (r.failed)
		return -EBADMSG;
	memset(ret_message, 0, sizeof(*ret_message));
	ret_message->type = (enum message_type)type;
	switch (ret_message->type) {
#define DECODE_CASE(name, number)                                                               \
	case MESSAGE_##name:                                                                    \
		get_message_##name(&r, &ret_message->name);                                     \
		return reader_done(&r) ? 0 : -EBADMSG;
		LEASE_MESSAGES(DECODE_CASE)
	}
	return -EOPNOTSUPP;
}

bool message_is_request(enum message_type type)
{
	/* Control messages have the numbers below; those about locks name a session only. */
	return type > MESSAGE_reply && (type < MESSAGE_lock || type > MESSAGE_lock_test);
}

const char *message_name(enum message_type type)
{
	switch (type) {
#define NAME_CASE(name, number)                                                                 \
	case MESSAGE_##name:                                                                    \
		return #name;
		LEASE_MESSAGES(NAME_CASE)
	}
	return "?";
}

/* ---- printing: pure, so without printf ---- */

struct printer {
	char *text;
	size_t size;
	size_t at; /* grows past size: what it would have taken */
};

static void say_char(struct printer *p, char c)
{
	if (p->at + 1 < p->size)
		p->text[p->at] = c;
	p->at++;
}

static void say(struct printer *p, const char *text)
{
	while (*text)
		say_char(p, *text++);
}

static void say_number(struct printer *p, uint64_t value)
{
	char digits[20];
	size_t count = 0;

	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	while (count)
		say_char(p, digits[--count]);
}

static void say_hex(struct printer *p, const uint8_t *data, size_t length)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < length; i++) {
		say_char(p, hex[data[i] >> 4]);
		say_char(p, hex[data[i] & 15]);
	}
}

static void print_U64(struct printer *p, const uint64_t *v)
{
	say_number(p, *v);
}

static void print_U32(struct printer *p, const uint32_t *v)
{
	say_number(p, *v);
}

static void print_U16(struct printer *p, const uint16_t *v)
{
	say_number(p, *v);
}

static void print_U8(struct printer *p, const uint8_t *v)
{
	say_number(p, *v);
}

static void print_HANDLE(struct printer *p, const struct handle *v)
{
	say_hex(p, v->bytes, v->length);
}

static void print_NAME(struct printer *p, const struct slice *v)
{
	say_char(p, '"');
	for (size_t i = 0; i < v->length; i++) {
		uint8_t c = v->data[i];

		if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
			say_char(p, (char)c);
		} else {
			say(p, "\\x");
			say_hex(p, &c, 1);
		}
	}
	say_char(p, '"');
}

static void print_BYTES(struct printer *p, const struct slice *v)
{
	say_char(p, '[');
	say_number(p, v->length);
	say_char(p, ']');
	say_hex(p, v->data, v->length < 32 ? v->length : 32);
}

static void print_CREDENTIAL(struct printer *p, const struct credential *v)
{
	say_number(p, v->uid);
	say_char(p, ':');
	say_number(p, v->gid);
	for (uint32_t i = 0; i < v->group_count; i++) {
		say_char(p, i ? ',' : '+');
		say_number(p, v->groups[i]);
	}
}

#define PRINT_FIELD(kind, name)                                                                 \
	say(p, " " #name "=");                                                                  \
	print_##kind(p, &v->name);

#define DEFINE_PRINT(name, number)                                                              \
	static void print_message_##name(struct printer *p, const struct message_##name *v)     \
	{                                                                                       \
		FIELDS_##name(PRINT_FIELD)                                                      \
	}
LEASE_MESSAGES(DEFINE_PRINT)

size_t message_print(const struct message *message, char *text, size_t size)
{
	struct printer p = { text, size, 0 };

	say(&p, message_name(message->type));
	switch (message->type) {
#define PRINT_CASE(name, number)                                                                \
	case MESSAGE_##name:                                                                    \
		print_message_##name(&p, &message->name);                                       \
		break;
		LEASE_MESSAGES(PRINT_CASE)
	}
	if (size)
		text[p.at < size ? p.at : size - 1] = '\0';
	return p.at;
}
