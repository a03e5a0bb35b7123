/*
 * corpus_message.c - writes one input for each message that there is, into the directory that is
 * its argument: corpus/message. Run it when a message is added, and commit what it writes.
 *
 * Every field has a value that tells it from the others; lists hold two items.
 */
#include "lease/base/rng.h"
#include "lease/message.h"

#include <stdio.h>
#include <stdlib.h>

static struct rng rng;
static uint8_t text[16] = "corpus-of-names";

#define FILL_NUMBER(kind, type)                 \
	static void fill_##kind(type *value)    \
	{                                       \
		*value = (type)rng_next(&rng);  \
	}
FILL_NUMBER(U8, uint8_t)
FILL_NUMBER(U16, uint16_t)
FILL_NUMBER(U32, uint32_t)
FILL_NUMBER(U64, uint64_t)

static void fill_HANDLE(struct handle *handle)
{
	memset(handle, 0, sizeof(*handle));
	handle->length = (uint8_t)(1 + rng_below(&rng, 12));
	for (uint8_t i = 0; i < handle->length; i++)
		handle->bytes[i] = (uint8_t)rng_next(&rng);
}

static void fill_CHANGE(struct change *change)
{
	fill_U64(&change->incarnation);
	fill_U64(&change->counter);
}

static void fill_NAME(struct slice *name)
{
	*name = (struct slice){ text, (size_t)rng_below(&rng, sizeof(text)) };
}

/* Two names: a list of items as good as any to the message around it. */
static void fill_BYTES(struct slice *bytes)
{
	static uint8_t list[64];
	struct writer w = writer_of(list, sizeof(list));
	struct item_name item;

	for (int i = 0; i < 2; i++) {
		fill_NAME(&item.name);
		item_name_write(&w, &item);
	}
	*bytes = (struct slice){ list, w.at };
}

static void fill_CREDENTIAL(struct credential *credential)
{
	memset(credential, 0, sizeof(*credential));
	fill_U32(&credential->uid);
	fill_U32(&credential->gid);
	credential->group_count = 2;
	fill_U32(&credential->groups[0]);
	fill_U32(&credential->groups[1]);
}

#define FILL_FIELD(kind, name) fill_##kind(&v->name);

static void write_hex(const char *directory, const struct message *message)
{
	static uint8_t bytes[MESSAGE_BYTES_MAX];
	struct writer w = writer_of(bytes, sizeof(bytes));
	char path[4096];
	FILE *file;

	message_encode(&w, message);
	snprintf(path, sizeof(path), "%s/%s", directory, message_name(message->type));
	file = fopen(path, "w");
	if (w.failed || !file)
		exit(EXIT_FAILURE);
	fprintf(file, "# %s\n", message_name(message->type));
	for (size_t i = 0; i < w.at; i++)
		fprintf(file, "%02x%c", bytes[i], i % 32 == 31 || i + 1 == w.at ? '\n' : ' ');
	if (fclose(file))
		exit(EXIT_FAILURE);
}

#define WRITE_MESSAGE(name, number)                                             \
	static void write_##name(const char *directory)                         \
	{                                                                       \
		struct message message = { .type = MESSAGE_##name };            \
		struct message_##name *v = &message.name;                       \
                                                                                \
		rng_init(&rng, number);                                         \
		FIELDS_##name(FILL_FIELD)                                       \
		write_hex(directory, &message);                                 \
	}
LEASE_MESSAGES(WRITE_MESSAGE)

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
		return EXIT_FAILURE;
	}
#define WRITE(name, number) write_##name(argv[1]);
	LEASE_MESSAGES(WRITE)
	return EXIT_SUCCESS;
}
