/* Whatever the state directory holds: it is refused, or every entry that it counts is there. */
#include <assert.h>
#include <stdlib.h>

#include "fs/origin/session_record.h"
#include "lease/base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size)
{
	struct session_record record;
	volatile uint64_t sum = 0; /* every entry is read, for the sanitizer's sake */

	if (session_record_decode(data, size, &record))
		return;
	assert(record.count <= SESSION_RECORD_COUNT_MAX);
	for (uint32_t i = 0; i < record.count; i++)
		sum = record.entries[i].session.value + record.entries[i].host[15];
	for (uint32_t i = 0; i < record.silent_count; i++)
		sum = record.silent[i].renewed.ns + strlen(record.silent[i].name);
	(void)sum;
	session_record_finish(&record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *sealed;
	struct writer w;

	check(data, size);
	/* Again with the checksum that belongs to it, which no search would find. */
	if (size < SESSION_RECORD_CHECK_BYTES)
		return 0;
	sealed = (uint8_t *)malloc(size);
	if (!sealed)
		abort();
	w = writer_of(sealed, size);
	writer_bytes(&w, data, size - SESSION_RECORD_CHECK_BYTES);
	writer_u64(&w, session_record_checksum(sealed, w.at));
	check(sealed, size);
	free(sealed);
	return 0;
}
