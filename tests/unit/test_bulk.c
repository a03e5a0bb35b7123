/* Data of requests that write: what is kept in place, what is copied, and whose memory that is. */
#include "fs/mount/bulk.h"

#include <stdlib.h>
#include <string.h>

#include "unit.h"

#define REQUEST_BYTES (80u + (1u << 20))

static struct mount mount;

/* As a thread that serves the kernel does it; libfuse allocates what is not there. */
static void receive(struct fuse_buf *buffer)
{
	bulk_receive(&mount, buffer);
	if (!buffer->mem)
		buffer->mem = malloc(REQUEST_BYTES);
	ck_assert_ptr_nonnull(buffer->mem);
	buffer->size = REQUEST_BYTES;
	memset(buffer->mem, 'x', REQUEST_BYTES);
}

START_TEST(much_data_stays_where_it_was_received)
{
	struct fuse_buf buffer = { .mem = NULL };
	struct call call = { .bulk = NULL };
	uint8_t *memory;

	receive(&buffer);
	memory = buffer.mem;
	ck_assert_int_eq(bulk_set(&call, memory + 80, 1u << 20), 0);
	ck_assert_ptr_eq(call.bulk, memory + 80);
	ck_assert_uint_eq(call.bulk_length, 1u << 20);
	ck_assert_ptr_null(buffer.mem);
	/* The next request of this thread is received elsewhere. */
	receive(&buffer);
	ck_assert_ptr_ne(buffer.mem, memory);
	ck_assert_int_eq(*(uint8_t *)call.bulk, 'x');
	bulk_drop(&mount, &call);
	ck_assert_ptr_null(call.bulk);
	free(buffer.mem);
	bulk_finish(&mount);
}
END_TEST

START_TEST(little_data_is_copied)
{
	struct fuse_buf buffer = { .mem = NULL };
	struct call call = { .bulk = NULL };
	uint8_t *memory;

	receive(&buffer);
	memory = buffer.mem;
	ck_assert_int_eq(bulk_set(&call, memory + 80, BULK_KEEP_BYTES_MIN - 1), 0);
	ck_assert_ptr_eq(buffer.mem, memory);
	memset(memory, 'y', REQUEST_BYTES);
	ck_assert_int_eq(*(uint8_t *)call.bulk, 'x');
	bulk_drop(&mount, &call);
	ck_assert_int_eq(bulk_set(&call, NULL, 0), 0);
	bulk_drop(&mount, &call);
	free(buffer.mem);
	bulk_finish(&mount);
}
END_TEST

START_TEST(what_was_not_received_is_copied)
{
	uint8_t *data = calloc(1, REQUEST_BYTES);
	struct fuse_buf buffer = { .mem = NULL };
	struct call call = { .bulk = NULL };

	receive(&buffer);
	ck_assert_ptr_nonnull(data);
	ck_assert_int_eq(bulk_set(&call, data, 1u << 20), 0);
	ck_assert_ptr_ne(call.bulk, data);
	ck_assert_ptr_nonnull(buffer.mem);
	bulk_drop(&mount, &call);
	free(buffer.mem);
	free(data);
	bulk_finish(&mount);
}
END_TEST

START_TEST(memory_that_was_given_back_is_for_the_next_request)
{
	struct fuse_buf buffer = { .mem = NULL };
	struct call calls[BULK_SPARE_COUNT + 1];
	void *last;

	memset(calls, 0, sizeof(calls));
	/* One more than is kept. */
	for (unsigned i = 0; i <= BULK_SPARE_COUNT; i++) {
		receive(&buffer);
		ck_assert_int_eq(bulk_set(&calls[i], (uint8_t *)buffer.mem + 80, 1u << 20), 0);
	}
	last = calls[0].bulk_memory;
	for (unsigned i = 0; i <= BULK_SPARE_COUNT; i++)
		bulk_drop(&mount, &calls[i]);
	bulk_receive(&mount, &buffer);
	ck_assert_ptr_eq(buffer.mem, last);
	free(buffer.mem);
	bulk_finish(&mount);
	buffer.mem = NULL;
	bulk_receive(&mount, &buffer);
	ck_assert_ptr_null(buffer.mem);
}
END_TEST

START_TEST(nothing_is_kept_where_memory_is_limited)
{
	struct fuse_buf buffer = { .mem = NULL };
	struct call call = { .bulk = NULL };

	mount.memory = (struct memory *)&mount; /* only that it is there matters */
	receive(&buffer);
	ck_assert_int_eq(bulk_set(&call, (uint8_t *)buffer.mem + 80, 1u << 20), 0);
	bulk_drop(&mount, &call);
	bulk_receive(&mount, &buffer);
	ck_assert_ptr_null(buffer.mem);
	mount.memory = NULL;
}
END_TEST

static TCase *bulk_case(void)
{
	TCase *tcase = tcase_create("bulk");

	tcase_add_test(tcase, much_data_stays_where_it_was_received);
	tcase_add_test(tcase, little_data_is_copied);
	tcase_add_test(tcase, what_was_not_received_is_copied);
	tcase_add_test(tcase, memory_that_was_given_back_is_for_the_next_request);
	tcase_add_test(tcase, nothing_is_kept_where_memory_is_limited);
	return tcase;
}

UNIT_MAIN("bulk", bulk_case)
