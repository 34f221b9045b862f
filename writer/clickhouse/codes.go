package clickhouse

import "strings"

// classOfCode maps exception codes, from ClickHouse's src/Common/ErrorCodes.cpp. Codes that are not listed are ambiguous:
// repeating the same block under the same token is always safe.
func classOfCode(code int32, text string) Class {
	switch code {
	case 252: // TOO_MANY_PARTS has two meanings
		if strings.Contains(text, "partitions for single INSERT block") {
			return Oversize
		}
		return Backpressure

	case
		201, // QUOTA_EXCEEDED
		202, // TOO_MANY_SIMULTANEOUS_QUERIES
		203, // NO_FREE_CONNECTION
		242, // TABLE_IS_READ_ONLY: a replica without its keeper
		243, // NOT_ENOUGH_SPACE
		290, // LIMIT_EXCEEDED
		439, // CANNOT_SCHEDULE_TASK
		473, // DEADLOCK_AVOIDED
		745: // SERVER_OVERLOADED
		return Backpressure

	case
		173, // CANNOT_ALLOCATE_MEMORY
		241: // MEMORY_LIMIT_EXCEEDED
		return Memory

	case
		8,   // THERE_IS_NO_COLUMN
		10,  // NOT_FOUND_COLUMN_IN_BLOCK
		16,  // NO_SUCH_COLUMN_IN_TABLE
		20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
		36,  // BAD_ARGUMENTS
		44,  // ILLEGAL_COLUMN
		46,  // UNKNOWN_FUNCTION
		47,  // UNKNOWN_IDENTIFIER
		48,  // NOT_IMPLEMENTED
		50,  // UNKNOWN_TYPE
		53,  // TYPE_MISMATCH
		56,  // UNKNOWN_STORAGE
		60,  // UNKNOWN_TABLE
		62,  // SYNTAX_ERROR
		73,  // UNKNOWN_FORMAT
		80,  // INCORRECT_QUERY
		81,  // UNKNOWN_DATABASE
		115, // UNKNOWN_SETTING
		164, // READONLY
		171, // BLOCKS_HAVE_DIFFERENT_STRUCTURE
		192, // UNKNOWN_USER
		193, // WRONG_PASSWORD
		194, // REQUIRED_PASSWORD
		195, // IP_ADDRESS_NOT_ALLOWED
		291, // DATABASE_ACCESS_DENIED
		344, // SUPPORT_IS_DISABLED
		452, // SETTING_CONSTRAINT_VIOLATION
		497, // ACCESS_DENIED
		516: // AUTHENTICATION_FAILED
		return Configuration

	case
		6,   // CANNOT_PARSE_TEXT
		26,  // CANNOT_PARSE_QUOTED_STRING
		27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
		38,  // CANNOT_PARSE_DATE
		41,  // CANNOT_PARSE_DATETIME
		69,  // ARGUMENT_OUT_OF_BOUND
		70,  // CANNOT_CONVERT_TYPE
		72,  // CANNOT_PARSE_NUMBER
		117, // INCORRECT_DATA
		128, // TOO_LARGE_ARRAY_SIZE
		131, // TOO_LARGE_STRING_SIZE
		321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
		349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
		395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
		469: // VIOLATED_CONSTRAINT
		return Data

	default:
		return Ambiguous
	}
}

func configurationHint(code int) string {
	switch code {
	case 192, 193, 194, 195, 516:
		return "check user and password: --clickhouse-user, --clickhouse-password-file, --clickhouse-dsn"
	case 164, 291, 497:
		return "the user of --clickhouse-dsn lacks the right to do this"
	case 60, 81:
		return "run with --clickhouse-migrate, or run `sendhouse migrate`"
	case 8, 10, 16, 20, 47, 53:
		return "the table lacks what the writer needs: run `sendhouse migrate`"
	case 50, 115:
		return "the server is older than ClickHouse 23.3"
	default:
		return ""
	}
}
